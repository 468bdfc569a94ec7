"""Exact resume of every algorithm on the shelf: five kills at random moments, and the same run to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from alignkit.data.kinds.kind import Kind
from alignkit.errors import RecipeError
from alignkit.recipe.lookup.find import list_content, load
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.read import read_recipe
from tests.resume.forked import Forked
from tests.resume.runs import fingerprint
from tests.resume.test_resume import wait_for_steps

STEPS, KILLS = 14, 5
CHARACTERS = {"characters": "0123456789+=?<>!;", "layers": 2, "hidden": 32, "heads": 2, "context": 48}
SUMS = {"source": "generator:arithmetic", "options": {"digits": 1, "style": "characters"}, "chat": False}
SEEDS = {"source": "generator:seeds", "options": {"count": 100}, "chat": False}
PLAYED = {"numbers": 5, "guesses": 3, "behaviour": "mixed", "count": 100}
GAMES = {"source": "generator:guess_number_games", "options": PLAYED, "chat": False}
GAME_PAIRS = GAMES | {"source": "generator:guess_number_pairs", "options": {"numbers": 5, "guesses": 3, "count": 100}}
CHAINS = {"source": "generator:chains", "options": {"numbers": 3, "mistakes": True, "count": 100}, "chat": False}
GAME = {"name": "guess_number", "options": {"numbers": 5, "guesses": 3}, "max_turns": 3}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"kl_weight": 0.01, "kl_target": 0.5},
    "ppo_lagrangian": {"costs": ["length"], "kl_weight": 0.01},
    "grpo": {"loss": {"kl": "loss", "kl_weight": 0.01}},
    "bradley_terry": {"members": 2, "contrast": 0.1},
    "rating": {"classes": [0, 1, 2]},
}
"""Settings that switch on what has a state of its own."""


OFFLINE: dict[str, str | None] = {
    "sft": None, "paired_preference": "paired_preference", "pairwise": "paired_preference",
    "unpaired_feedback": "unpaired_feedback", "rewrites": "rewritten", "ranked": "ranked", "rated": "rated",
}  # fmt: skip
"""Answers of the sums by kind of data."""


def sections(name: str, kind: Kind) -> Iterator[dict[str, Any]]:
    """What a stage of that kind of data needs besides its algorithm, one way after another: the first valid one counts.

    What is sampled may want an environment of its own accord (`Algorithm.requires`): the game is tried after the sums.
    """
    steps = {"steps": STEPS, "batch": 8}
    if kind.samples:
        fresh = {"steps": STEPS, "minibatches": 2}
        judged = {"rewards": [{"name": "length_penalty", "options": {"max_tokens": 3, "buffer": 2}}]}
        rewards = [{"name": "exact_match"}, {"name": "ends_with_stop", "weight": 0.2}]
        if kind.environment != "must":
            yield {"data": SUMS, "rewards": rewards, "train": fresh}
        if kind.environment != "never":
            judges = judged if kind.candidates else {}
            yield {"data": SEEDS, "environment": GAME, "train": fresh if kind.fresh else steps} | judges
    elif kind.name in OFFLINE:
        answers = "unsafe" if name == "cost" else OFFLINE[kind.name]
        options = SUMS["options"] | ({"answers": answers} if answers else {})
        yield {"data": SUMS | {"options": options}, "train": steps}
    else:
        data = {"stepwise_supervision": CHAINS, "paired_episodes": GAME_PAIRS}.get(kind.name, GAMES)
        yield {"data": data, "train": steps}


def directed_sums(folder: Path) -> dict[str, Any]:
    """Data whose every row says how much each reward counts, as dpa needs it."""
    rows = [
        {"prompt": f"{a}+{b}=", "reference": f"{a + b}", "direction": {"exact_match": 1.0, "ends_with_stop": a / 10}}
        for a in range(10)
        for b in range(3)
    ]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"source": "sums.jsonl", "chat": False}


def write(folder: Path, name: str, kind: Kind) -> Path:
    """A tiny recipe of the algorithm; the reader's complaint about the last try where none is valid."""
    problem: RecipeError | None = None
    for section in sections(name, kind):
        path = write_one(folder, name, section)
        try:
            read_recipe(path)
            return path
        except RecipeError as error:
            problem = error
    raise problem or KeyError(f"{name}: no recipe here for data of the kind {kind.name}")


def write_one(folder: Path, name: str, section: dict[str, Any]) -> Path:
    recipe = {
        "seed": 5,
        "model": {"scratch": CHARACTERS, "dtype": "float32"},
        "rollouts": {"engine": "hf", "prompts": 4, "group": 4, "max_new_tokens": 3, "canary_tolerance": 0.001}
        | {"reward_workers": 1},
        "algorithm": {"type": name} | SETTINGS.get(name, {}),
        "optimizer": {"lr": 1e-3, "schedule": "cosine", "warmup_steps": 3},
        "checkpoints": {"every": 2},
        "health": {"dead_steps": 1000},
    } | section
    if name == "ppo_lagrangian":
        recipe["constraints"] = [{"of": "length", "limit": 2.0, "window": 3}]
    if name == "dpa":
        recipe["data"] = directed_sums(folder)
    path = folder / f"{Path(name).stem}.yaml"
    with path.open("w") as file:
        YAML().dump(recipe, file)
    return path


def cases():
    for found in list_content("algorithms"):
        yield pytest.param(found.name, kind_of(load(found).source), id=found.name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), cases())
def test_five_kills_change_no_bit(name, kind, tmp_path, record_property):
    record_property("tries", KILLS)
    kill_and_compare(name, kind, tmp_path)


def kill_and_compare(name: str, kind: Kind, tmp_path: Path) -> None:
    """Asserts that a run that was killed at random moments is the run that was not, to the last bit."""
    recipe, run, log = write(tmp_path, name, kind), tmp_path / "run", tmp_path / "log.txt"
    assert Forked(recipe, tmp_path / "whole", log=log).wait(200) == 0, log.read_text()[-2000:]
    chance = random.Random(name)
    for _ in range(KILLS):
        process = Forked(recipe, run, resume=True, log=log)
        wait_for_steps(run, more=chance.randrange(1, 4), process=process)
        time.sleep(chance.uniform(0.0, 0.05))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert Forked(recipe, run, resume=True, log=log).wait(200) == 0, log.read_text()[-2000:]
    assert fingerprint(run) == fingerprint(tmp_path / "whole")


@pytest.fixture
def player(tmp_path) -> str:
    """A new algorithm: it learns from rollouts, as grpo does, and says only in `requires` that it wants to play."""
    (tmp_path / "player.py").write_text(
        "from dataclasses import replace\n"
        "from alignkit.algorithms.rollouts import grpo\n"
        "ALGORITHM = replace(grpo.ALGORITHM, requires=lambda config, stage: "
        "[] if stage.environment else ['it plays: set environment'])\n"
    )
    return "./player.py"


def test_an_algorithm_that_wants_an_environment_gets_one_here_without_being_named(player, tmp_path):
    recipe = read_recipe(write(tmp_path, player, kind_of("rollouts")))
    assert recipe.stages[0].environment is not None
    assert recipe.stages[0].environment.name == "guess_number"


@pytest.mark.slow
def test_such_an_algorithm_resumes_after_five_kills_too(player, tmp_path):
    kill_and_compare(player, kind_of("rollouts"), tmp_path)
