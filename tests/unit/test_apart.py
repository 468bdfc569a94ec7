"""Environments in processes of their own: what hangs, crashes, prints or grows is a named fault of that episode."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from alignkit.environments.apart import Apart
from alignkit.environments.lift import World
from alignkit.errors import ContentError
from alignkit.processes.family import descendants
from alignkit.rollout.collect import describe
from alignkit.types.score import FaultKind
from alignkit.types.turn import EpisodeEnd
from tests.unit.scripted_episodes import Script, collector, prompts

WORLD = '''
import ctypes, os, subprocess, sys, threading, time
import numpy
from alignkit.environments.base import Observation

class world:
    """Does what the number says that it is told."""

    async def start(self, task, seed):
        self.seed = seed
        return Observation(text="?", info={"room": "hall", "light": numpy.float32(0.5), "map": [1]})

    async def step(self, text):
        if text == "0":
            return Observation(text="=", reward=1.0, done=True, success=True)
        if text == "1":
            ctypes.CDLL(None).sleep(60)  # in C, where no exception arrives
        if text == "2":
            os._exit(3)
        if text == "3":
            held = []
            while True:
                held.append(bytearray(16 << 20))
        if text == "4":
            print("x" * 10_000_000, flush=True)
            return Observation(text="=", reward=2.0, done=True)
        if text == "5":
            return Observation(text="x" * 10_000_000)
        if text == "6":
            return "=" * 3
        if text == "7":
            subprocess.Popen(["sleep", "77"], start_new_session=True)
            os.kill(os.getpid(), 9)
        if text == "8":
            sys.exit("enough")
        if text == "9":
            raise OSError("away\\nfor good")
'''


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Apart:
    folder = tmp_path_factory.mktemp("world")
    (folder / "world.py").write_text(WORLD)
    return Apart(World(name="./world.py:world", beside=folder), memory_bytes=256 << 20)


def play(apart: Apart, *says: str, **options: Any) -> list[Any]:
    """One episode for each text, all at once, in one group."""
    engine = Script(lambda call, request: "")

    async def generate(requests: list[Any]) -> list[Any]:
        return [engine._completion(text, request) for text, request in zip(says, requests, strict=True)]

    engine.generate = generate  # ty: ignore[invalid-assignment]
    driver = collector(engine, apart, settings={"group": len(says)}, **{"deadline_s": 20.0, **options})
    return [rollout for group in asyncio.run(driver.sample(prompts(1))) for rollout in group]


def test_what_goes_wrong_in_one_process_is_a_fault_of_that_episode_alone(apart):
    rollouts = play(apart, *"0234567890")
    assert [(rollout.reward, rollout.end) for rollout in rollouts][:: len(rollouts) - 1] == [(1.0, EpisodeEnd.DONE)] * 2
    assert rollouts[3].reward == 2.0, "what it prints goes nowhere"
    faults = {number: rollouts[place].score.fault for place, number in enumerate("0234567890") if number not in "04"}
    assert {number: fault.kind for number, fault in faults.items()} == {
        "2": FaultKind.CRASH,
        "3": FaultKind.MEMORY,
        "5": FaultKind.CONTRACT,
        "6": FaultKind.CONTRACT,
        "7": FaultKind.CRASH,
        "8": FaultKind.CRASH,
        "9": FaultKind.CRASH,
    }
    said = {number: fault.message for number, fault in faults.items()}
    assert said["2"] == "turn 1: its process ended with exit code 3"
    assert said["5"] == "turn 1: answered 10,000,000 characters; wanted at most 1,000,000"
    assert said["6"] == "turn 1: answered str; wanted an Observation"
    assert said["7"] == "turn 1: its process was killed by SIGKILL"
    assert said["8"].startswith("turn 1: SystemExit: enough (world.py:")
    assert said["9"].startswith("turn 1: OSError: away (world.py:")
    assert rollouts[0].turns[0].info_before == {"room": "hall", "light": 0.5}


def test_one_that_hangs_in_c_is_killed_at_its_deadline_and_the_others_go_on(apart):
    begun = time.monotonic()
    hung, fine = play(apart, "1", "0", deadline_s=1.5)
    assert (hung.score.fault.kind, hung.score.fault.message) == (FaultKind.TIMEOUT, "turn 1: no answer within 1.5 s")
    assert (fine.reward, time.monotonic() - begun < 15) == (1.0, True)


def test_nothing_of_an_episode_outlives_it(apart):
    play(apart, "7", "1", "0", deadline_s=1.5)
    deadline = time.monotonic() + 10
    names: list[str] = []
    while time.monotonic() < deadline:
        names = [name for process in descendants(os.getpid()) if (name := _command(process)) is not None]
        if not any("77" in name.split("\0") for name in names) and _keepers(apart) == 1:
            return
        time.sleep(0.1)
    raise AssertionError(f"still there: {names}")


def _keepers(apart: Apart) -> int:
    """Processes below the two keepers: the one that forks, and those of episodes."""
    return len(descendants(apart._child.process.pid)) - 1


def _command(process: int) -> str | None:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return None


def test_processes_play_the_same_episodes_as_the_trainers_own():
    world = World(name="guess_number", options={"numbers": 5, "guesses": 3})
    say = lambda call, request: "120"[call - 1]  # noqa: E731
    plays = []
    for make in (world.factory(), Apart(world, memory_bytes=512 << 20)):
        driver = collector(Script(say), make, settings={"group": 3})
        plays.append(asyncio.run(driver.collect(prompts)))
    turns = [[rollout.turns for rollout in collected.everything] for collected in plays]
    assert turns[0] == turns[1]
    metrics = [describe(collected, driver.settings)["reward/mean"] for collected in plays]
    assert metrics[0] == metrics[1]


def test_a_world_that_cannot_be_made_is_refused_before_the_first_episode(tmp_path):
    (tmp_path / "bad.py").write_text("import os\nos._exit(4)\n\nclass bad: ...\n")
    with pytest.raises(ContentError, match=r"environment '\./bad.py:bad': its process ended while it was loaded"):
        Apart(World(name="./bad.py:bad", beside=tmp_path), memory_bytes=1 << 30)
    (tmp_path / "other.py").write_text("class other: ...\n")
    with pytest.raises(ContentError, match=r"makes a other, which lacks `start` or `step` \(or TRL's `reset`\)"):
        Apart(World(name="./other.py:other", beside=tmp_path), memory_bytes=1 << 30)
