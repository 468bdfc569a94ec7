"""Exact resume: an interrupted and resumed run is the uninterrupted run, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from alignkit.errors import CheckpointError
from alignkit.run.train import Interrupted
from alignkit.run.train import run as train
from tests.resume.runs import fingerprint, read, write_recipe


def in_a_process_group(recipe, *, resume: bool) -> int:
    """Starts the run in a forked child that leads a process group of its own; returns its process id."""
    child = os.fork()
    if child:
        return child
    os.setpgrp()
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    try:
        train(recipe, resume=resume)
    except Interrupted as stop:
        os._exit(stop.exit_code)
    except BaseException:  # the child must never return into pytest
        os._exit(1)
    os._exit(0)


def wait_for(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_after(process: int, seconds: float) -> int | None:
    """Kills the process and its children after `seconds`; None when it was killed, else the code it ended with."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """(recipe file, fingerprint) of the run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("reference")
    recipe = write_recipe(folder, steps=40, every=3)
    assert wait_for(in_a_process_group(read(recipe, folder / "run"), resume=False)) == 0
    return recipe, fingerprint(folder / "run")


def test_the_same_recipe_twice_is_the_same_run(uninterrupted, tmp_path):
    recipe, expected = uninterrupted
    assert wait_for(in_a_process_group(read(recipe, tmp_path / "run"), resume=False)) == 0
    assert fingerprint(tmp_path / "run") == expected


def test_sigterm_writes_a_checkpoint_exits_85_and_the_resumed_run_is_the_same(uninterrupted, tmp_path):
    recipe, expected = uninterrupted
    run = tmp_path / "run"
    process = in_a_process_group(read(recipe, run, "checkpoints.every=null"), resume=False)
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < 12:
        time.sleep(0.05)
    os.kill(process, signal.SIGTERM)
    assert wait_for(process) == 85
    assert list((run / "checkpoints").glob("step-*"))
    assert wait_for(in_a_process_group(read(recipe, run), resume=True)) == 0
    assert fingerprint(run) == expected


def test_resume_refuses_another_learning_rate_and_names_it(uninterrupted, tmp_path):
    recipe, _ = uninterrupted
    run = tmp_path / "run"
    assert wait_for(in_a_process_group(read(recipe, run, "stages.1.train.steps=4"), resume=False)) == 0
    with pytest.raises(CheckpointError, match=r"stages\.1\.optimizer\.lr.*0\.001.*0\.002"):
        train(read(recipe, run, "stages.1.train.steps=4", "stages.1.optimizer.lr=2e-3"), resume=True)


def test_a_used_folder_is_refused_without_resume(uninterrupted):
    recipe, _ = uninterrupted
    with pytest.raises(CheckpointError, match="--resume goes on with it"):
        train(read(recipe, recipe.parent / "run"), resume=False)


@pytest.mark.slow
def test_20_kills_at_random_moments_change_no_bit_and_lose_no_prompt(uninterrupted, tmp_path):
    recipe, expected = uninterrupted
    run, chance, kills = tmp_path / "run", random.Random(0), 0
    while kills < 20:
        ended = kill_after(in_a_process_group(read(recipe, run), resume=True), chance.uniform(0.3, 6.0))
        if ended is not None:
            assert ended == 0, f"the run failed by itself after {kills} kills"
            break
        kills += 1
    print(f"{kills} kills", file=sys.stderr)
    assert kills >= 10, "the run ended too early to have been killed often: make it longer"
    if kills == 20:
        assert wait_for(in_a_process_group(read(recipe, run), resume=True)) == 0
    assert fingerprint(run) == expected
