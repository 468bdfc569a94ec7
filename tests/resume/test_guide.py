"""Exact resume with a guide: it is rebuilt as the policy was when its stage began, and goes on from the cursor."""

from __future__ import annotations

import os
import signal

from alignkit.run.train.train import run as train
from tests.resume.forked import Forked
from tests.resume.runs import fingerprint, read, write_recipe
from tests.resume.test_resume import wait_for_steps

FINISHED = ("stages.1.rollouts.guide_roll_out=0.5", "stages.1.algorithm.loss={kl: none}")


def test_a_killed_run_with_a_guide_goes_on_as_if_nothing_had_been(tmp_path):
    recipe = write_recipe(tmp_path, steps=10, every=3)
    train(read(recipe, tmp_path / "whole", *FINISHED), resume=False)
    process = Forked(recipe, tmp_path / "killed", *FINISHED)
    wait_for_steps(tmp_path / "killed", more=8, process=process)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    train(read(recipe, tmp_path / "killed", *FINISHED), resume=True)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
    assert (tmp_path / "killed" / "stage-1-first.safetensors").exists()
    shares = [step["rollout/finished_frac"] for step in fingerprint(tmp_path / "whole")["metrics"][5:]]
    assert 0.1 < sum(shares) / len(shares) < 0.6
