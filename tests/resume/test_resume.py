"""Exact resume: an interrupted and resumed run is the uninterrupted run, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignkit.errors import CheckpointError
from alignkit.run.train.train import run as train
from tests.resume.forked import Forked
from tests.resume.runs import fingerprint, read, write_recipe


def start(recipe: Path, run: Path, *overrides: str, resume: bool = False) -> subprocess.Popen:
    """Starts `alignkit train` in a process group of its own."""
    command = [sys.executable, "-m", "alignkit", "train", str(recipe), f"run={run}", *overrides]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *(["--resume"] if resume else [])], start_new_session=True, env=environment, **quiet
    )


def finish(process: subprocess.Popen | Forked) -> int | None:
    return process.wait(timeout=250)


def steps_of(run: Path) -> int:
    return len((run / "metrics.jsonl").read_bytes().splitlines()) if (run / "metrics.jsonl").exists() else 0


def wait_for_steps(run: Path, *, more: int, process: subprocess.Popen | Forked) -> None:
    """Returns once the run is `more` steps further than now, or has ended."""
    before = steps_of(run)
    while process.poll() is None and steps_of(run) < before + more:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """(recipe file, fingerprint) of the run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("reference")
    recipe = write_recipe(folder, steps=20, every=3)
    assert finish(start(recipe, folder / "run")) == 0
    return recipe, fingerprint(folder / "run")


def test_the_same_recipe_twice_is_the_same_run(uninterrupted, tmp_path):
    recipe, expected = uninterrupted
    assert finish(Forked(recipe, tmp_path / "run")) == 0
    assert fingerprint(tmp_path / "run") == expected


def test_sigterm_writes_a_checkpoint_exits_85_and_the_resumed_run_is_the_same(uninterrupted, tmp_path):
    recipe, expected = uninterrupted
    run = tmp_path / "run"
    process = Forked(recipe, run, "checkpoints.every=null")
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < 12:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == 85
    assert list((run / "checkpoints").glob("step-*"))
    assert finish(Forked(recipe, run, resume=True)) == 0
    assert fingerprint(run) == expected


def test_resume_refuses_another_learning_rate_and_names_it(uninterrupted, tmp_path):
    recipe, _ = uninterrupted
    run = tmp_path / "run"
    train(read(recipe, run, "stages.1.train.steps=4"), resume=False)
    with pytest.raises(CheckpointError, match=r"stages\.1\.optimizer\.lr.*0\.001.*0\.002"):
        train(read(recipe, run, "stages.1.train.steps=4", "stages.1.optimizer.lr=2e-3"), resume=True)


def test_a_used_folder_is_refused_without_resume(uninterrupted):
    recipe, _ = uninterrupted
    with pytest.raises(CheckpointError, match="--resume goes on with it"):
        train(read(recipe, recipe.parent / "run"), resume=False)


@pytest.mark.slow
def test_20_kills_at_random_moments_change_no_bit_and_lose_no_prompt(tmp_path, record_property):
    """Kills fall on imports, the first checkpoints, the middle of steps, and starts from a checkpoint.

    Every fourth process is started as a user starts it, and killed wherever that is: mostly before the first step. The
    others need not import anything first.
    """
    recipe, run = write_recipe(tmp_path, steps=400, every=5), tmp_path / "run"
    record_property("tries", 20)
    assert finish(start(recipe, tmp_path / "uninterrupted")) == 0
    chance = random.Random(0)
    for number in range(20):
        as_a_user = number % 4 == 0
        process = start(recipe, run, resume=True) if as_a_user else Forked(recipe, run, resume=True)
        if as_a_user:
            time.sleep(chance.uniform(0.1, 6.0))
        else:
            wait_for_steps(run, more=chance.randrange(1, 16), process=process)
            time.sleep(chance.uniform(0.0, 0.05))
        assert (code := process.poll()) is None, f"the run ended with code {code} before kill {number}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert finish(start(recipe, run, resume=True)) == 0
    assert fingerprint(run) == fingerprint(tmp_path / "uninterrupted")
