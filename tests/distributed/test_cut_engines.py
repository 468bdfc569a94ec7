"""One recipe with vLLM on one process, on two, and on four with engines that are cut: the same run."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.distributed import test_zero_runs as runs
from tests.distributed.ranks import fine
from tests.resume.runs import fingerprint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)"),
]
STEPS = 5
RECIPE = (
    runs.GRPO.replace("hidden: 32, heads: 4, context: 16", "hidden: 64, heads: 2, context: 32")
    .replace("engine: hf", "engine: vllm, memory_gib: 1")
    .replace("steps: 40", f"steps: {STEPS}")
    .replace("every: 3", "every: 2")
)
HOW = {
    "one process": (),
    "zero2": ("--launch", "zero2-cpu"),
    "zero3, cut": ("--launch", "fine-zero3", "--processes", "4", "engine.replicas=2", "engine.tensor_parallel=2"),
}
TOGETHER_S = 1500.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fine-zero3 is zero3-cpu with buckets so small that this model is cut, too."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "launch").mkdir()
    (folder / "launch" / "fine.json").write_text(json.dumps(fine(3)))
    profile = (runs.ROOT / "launch" / "accelerate" / "zero3-cpu.yaml").read_text()
    (folder / "launch" / "fine-zero3.yaml").write_text(profile.replace("launch/deepspeed/zero3.json", "fine.json"))
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Callable[[str], Path]:
    """The folder of a whole run, which is run once."""

    def train(how: str) -> Path:
        run = folder / how.replace(", ", "-").replace(" ", "-")
        if not run.exists():
            runs.finish(runs.start(folder, "recipe.yaml", f"run={run}", *HOW[how]), within_s=TOGETHER_S)
        return run

    return train


@pytest.mark.parametrize("how", ["zero2", "zero3, cut"])
def test_samples_losses_and_gradients_are_those_of_one_process_with_one_engine(trained, how: str):
    one, several = trained("one process"), trained(how)
    runs.assert_same_numbers(one, several, steps=STEPS)
    for expected, got in zip(runs.rows(one), runs.rows(several), strict=True):
        for name in ("rollout/tokens", "reward/mean", "rollout/policy_version"):
            assert got[name] == expected[name], f"step {got['step']}: {name}"
        assert 0 <= got["sync/canary_gap"] < 1e-4, "every sync is proven"


def test_a_killed_run_with_cut_engines_leaves_no_process_behind_and_resumes_bit_for_bit(folder: Path, trained):
    run = folder / "killed"
    arguments = ["recipe.yaml", f"run={run}", *HOW["zero3, cut"]]
    process = runs.start(folder, *arguments)
    runs.wait_for_steps(run, process, 3, within_s=TOGETHER_S)
    everyone = psutil.Process(process.pid).children(recursive=True)
    assert len(everyone) >= 4 + 2 * 3, "ranks, engines, and the workers of each"
    os.kill(runs.ranks_of(process)[2].pid, signal.SIGKILL)
    killed = time.monotonic()
    runs.finish(process, None)
    assert time.monotonic() - killed < runs.ENDS_WITHIN_S
    assert not psutil.wait_procs(everyone, timeout=60)[1]
    runs.finish(runs.start(folder, *arguments, "--resume"), within_s=TOGETHER_S)
    assert fingerprint(run) == fingerprint(trained("zero3, cut"))
