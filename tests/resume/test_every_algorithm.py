"""Exact resume of every algorithm on the shelf: five kills at random moments, and the same run to the last bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from alignkit.recipe.find import list_content, load
from tests.resume.runs import fingerprint, read
from tests.resume.test_resume import wait_for_steps

STEPS, KILLS = 14, 5
CHARACTERS = {"characters": "0123456789+=?<>!;", "layers": 2, "hidden": 32, "heads": 2, "context": 48}
SUMS = {"source": "generator:arithmetic", "options": {"digits": 1, "style": "characters"}, "chat": False}
SEEDS = {"source": "generator:seeds", "options": {"count": 100}, "chat": False}
PLAYED = {"numbers": 5, "guesses": 3, "behaviour": "mixed", "count": 100}
GAMES = {"source": "generator:guess_number_games", "options": PLAYED, "chat": False}
CHAINS = {"source": "generator:chains", "options": {"numbers": 3, "mistakes": True, "count": 100}, "chat": False}
GAME = {"name": "guess_number", "options": {"numbers": 5, "guesses": 3}, "max_turns": 3}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"kl_weight": 0.01, "kl_target": 0.5},
    "ppo_lagrangian": {"costs": ["length"], "kl_weight": 0.01},
    "grpo": {"kl": "loss", "kl_weight": 0.01},
    "bradley_terry": {"members": 2, "contrast": 0.1},
    "rating": {"classes": [0, 1, 2]},
}
"""Settings that switch on what has a state of its own."""


def sections(name: str, source: str) -> dict[str, Any]:
    """What a stage of that kind of data needs besides its algorithm."""
    if source == "rollouts":
        spec = [{"name": "exact_match"}, {"name": "ends_with_stop", "weight": 0.2}]
        return {"data": SUMS, "rewards": spec, "train": {"steps": STEPS, "minibatches": 2}}
    if source in ("replay", "resets"):
        size = {"batch": 8} if source == "replay" else {"minibatches": 2}
        return {"data": SEEDS, "environment": GAME, "train": {"steps": STEPS, **size}}
    if source == "turns":
        return {"data": GAMES, "train": {"steps": STEPS, "batch": 8}}
    if source == "steps":
        return {"data": CHAINS, "train": {"steps": STEPS, "batch": 8}}
    given = {"labelled": None, "pairs": "compared", "duels": "compared", "judged": "judged", "rewrites": "rewritten"}
    given |= {"ranked": "ranked", "rated": "rated"} | ({"pairs": "unsafe"} if name == "cost" else {})
    if source in given:
        options = SUMS["options"] | ({"answers": given[source]} if given[source] else {})
        return {"data": SUMS | {"options": options}, "train": {"steps": STEPS, "batch": 8}}
    raise KeyError(f"{name}: no recipe here for source {source}")


def directed_sums(folder: Path) -> dict[str, Any]:
    """Data whose every row says how much each reward counts, as dpa needs it."""
    rows = [
        {"prompt": f"{a}+{b}=", "reference": f"{a + b}", "direction": {"exact_match": 1.0, "ends_with_stop": a / 10}}
        for a in range(10)
        for b in range(3)
    ]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"source": "sums.jsonl", "chat": False}


def write(folder: Path, name: str, source: str) -> Path:
    """A tiny recipe of the algorithm."""
    recipe = {
        "seed": 5,
        "model": {"scratch": CHARACTERS, "dtype": "float32"},
        "rollouts": {"engine": "hf", "prompts": 4, "group": 4, "max_new_tokens": 3, "canary_tolerance": 0.001}
        | {"reward_workers": 1},
        "algorithm": {"type": name} | SETTINGS.get(name, {}),
        "optimizer": {"lr": 1e-3, "schedule": "cosine", "warmup_steps": 3},
        "checkpoints": {"every": 2},
        "health": {"dead_steps": 1000},
    } | sections(name, source)
    if name == "ppo_lagrangian":
        recipe["constraints"] = [{"of": "length", "limit": 2.0, "window": 3}]
    if name == "dpa":
        recipe["data"] = directed_sums(folder)
    path = folder / f"{name}.yaml"
    with path.open("w") as file:
        YAML().dump(recipe, file)
    return path


def train(recipe: Path, run: Path, log: Path) -> None:
    """A run in a process group of its own, from its newest checkpoint; what it says goes to `log`."""
    os.setsid()
    sys.stderr = sys.stdout = log.open("a")
    from alignkit.run.train import run as whole_run

    whole_run(read(recipe, run), resume=True)


@pytest.fixture(scope="module")
def server():
    """Forks processes that have imported everything and computed nothing, so that a start costs no import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alignkit.run.train", "tests.resume.test_every_algorithm"])
    return context


def cases():
    for found in list_content("algorithms"):
        yield pytest.param(found.name, load(found).source, id=found.name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source"), cases())
def test_five_kills_change_no_bit(name, source, server, tmp_path):
    recipe, run = write(tmp_path, name, source), tmp_path / "run"

    def start(folder: Path):
        process = server.Process(target=train, args=(recipe, folder, tmp_path / "log.txt"))
        process.start()
        return process

    whole = start(tmp_path / "whole")
    whole.join(200)
    assert whole.exitcode == 0, (tmp_path / "log.txt").read_text()[-2000:]
    chance = random.Random(name)
    for _ in range(KILLS):
        process = start(run)
        wait_for_steps(run, more=chance.randrange(1, 4), process=Polled(process))
        time.sleep(chance.uniform(0.0, 0.05))
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    last = start(run)
    last.join(200)
    assert last.exitcode == 0, (tmp_path / "log.txt").read_text()[-2000:]
    assert fingerprint(run) == fingerprint(tmp_path / "whole")


class Polled:
    """A multiprocessing process with the `poll` of a subprocess."""

    def __init__(self, process: Any):
        self.process = process

    def poll(self) -> int | None:
        return self.process.exitcode
