"""On a shared card engine and trainer never hold their memory together: the order over whole runs, by a strict engine.

The stand-in is stricter than vLLM: asleep it refuses everything but waking, and in that order; its weights are gone, as
they are after vLLM's sleep of level 2; and every computation of the trainer asks whether it sleeps.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alignkit.engines.hf import HfEngine
from alignkit.models.forward import Forward
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.schema import Optimizer
from alignkit.run.train import build
from alignkit.run.train.stop import Stop
from alignkit.run.train.train import Interrupted, run
from alignkit.train.sync import Sync
from tests.resume.runs import fingerprint, read, write_recipe
from tests.tiny import causal_lm


class Card:
    """Who holds its memory. told: what happened, repetitions left out."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.engine: StrictEngine | None = None

    def tell(self, what: str) -> None:
        if self.told[-1:] != [what]:
            self.told.append(what)

    def trainer_works(self, what: str) -> None:
        assert self.engine is not None, f"{what} before there is an engine"
        beside = {"weights"} if what == "forward" else set()  # the proof's, of a few tokens
        assert self.engine.holds <= beside, f"{what} while the engine holds {self.engine.holds}"
        self.tell(what)


class StrictEngine(HfEngine):
    def __init__(self, model: nn.Module, card: Card):
        super().__init__(model, dtype="float32")
        self.card, self.holds, self.fresh = card, {"weights", "cache"}, False
        card.engine = self

    async def generate(self, requests: Any) -> Any:
        assert self.holds == {"weights", "cache"}
        assert self.fresh
        self.card.tell("generate")
        return await super().generate(requests)

    async def score(self, sequences: Any) -> Any:
        assert self.holds == {"weights", "cache"}
        assert self.fresh
        self.card.tell("score")
        return await super().score(sequences)

    def update(self, weights: Any, *, version: int) -> None:
        assert self.holds == {"weights"}, "the cache wakes after the weights are there"
        self.card.tell("update")
        super().update(weights, version=version)
        self.fresh = True

    def sleep(self) -> None:
        assert self.holds == {"weights", "cache"}
        self.holds, self.fresh = set(), False
        with torch.no_grad():
            for weight in self._model.parameters():
                weight.fill_(torch.nan)
        self.card.tell("sleep")

    def wake(self, part: Any) -> None:
        assert self.card.told[-1] == "empty the trainer's cache"
        assert self.holds == {"weights": set(), "cache": {"weights"}}[part]
        self.holds.add(part)
        self.card.tell(f"wake {part}")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    """A shared card: the recipe's engine is the strict one, and the trainer's work is watched."""
    card = Card()

    def watch(owner: Any, name: str, what: str) -> None:
        method = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            card.trainer_works(what)
            return method(*arguments, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(build, "place", "place the policy")
    watch(Forward, "__call__", "forward")
    watch(Forward, "verify", "forward")
    watch(SingleTrainer, "step", "optimizer step")
    watch(SingleTrainer, "save", "checkpoint")
    monkeypatch.setattr(build, "engine_sleeps", lambda recipe: True)
    monkeypatch.setattr(build, "build_engine", lambda recipe, policy, *_, **__: StrictEngine(policy.model, card))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: card.tell("empty the trainer's cache"))
    return card


class After(Stop):
    """Asks the run to stop after some steps, as SIGTERM would."""

    def __init__(self, steps: int):
        self.left = steps
        super().__init__()

    @property
    def asked(self) -> bool:
        self.left -= 1
        return self.left < 0

    @asked.setter
    def asked(self, value: bool) -> None:
        pass


EVALUATED = ("evaluation.limit=4", "evaluation.every=7", "evaluation.data.source=generator:arithmetic")
OPTIONS = ('evaluation.data.options={"digits": 1, "style": "characters"}', "evaluation.data.chat=false")
REFILLED = ("stages.1.rollouts.dynamic_sampling=true", "stages.1.rollouts.refill_rounds=2")
WAKING = ["empty the trainer's cache", "wake weights", "update", "forward", "empty the trainer's cache", "wake cache",
          "score", "generate", "sleep"]  # fmt: skip


def cycles(told: list[str]) -> list[list[str]]:
    """What happened from each waking to the sleep after it."""
    ends = [index for index, what in enumerate(told) if what == "sleep"][1:]
    begins = [index for index in range(len(told)) if told[index : index + 2] == WAKING[:2]]
    return [told[begin : end + 1] for begin, end in zip(begins, ends, strict=True)]


def test_over_a_whole_run_with_evaluations_refills_and_a_resume_one_of_the_two_holds_the_card(
    card: Card, tmp_path: Path
):
    recipe = write_recipe(tmp_path, steps=4, every=2)
    settings = (*EVALUATED, *OPTIONS, *REFILLED)
    run(read(recipe, tmp_path / "whole", *settings), resume=False)
    assert card.told[:2] == ["sleep", "place the policy"]
    told = cycles(card.told)
    assert len(told) == 7  # evaluations before, after two GRPO steps and at the end; four steps of GRPO
    assert all(cycle == WAKING for cycle in told), "one step's refills are one waking"
    assert card.told[-1] in ("sleep", "checkpoint")
    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        run(read(recipe, stopped, *settings), resume=False, stop=After(6))
    card.told.clear()
    run(read(recipe, stopped, *settings), resume=True)
    assert card.told[:2] == ["sleep", "place the policy"]
    assert all(cycle == WAKING for cycle in cycles(card.told))
    assert fingerprint(stopped) == fingerprint(tmp_path / "whole")


def test_an_engine_that_slept_is_pushed_to_and_proven_again_though_no_weight_changed(card: Card):
    model = causal_lm(seed=1)
    engine = StrictEngine(causal_lm(seed=1), card)
    sync = Sync(engine=engine, group=build.Group(), probe=[[3, 4, 5, 6], [9, 8, 2]], tolerance=1e-4, sleeps=True)
    trainer, forward = SingleTrainer(model, Optimizer(lr=1e-3)), Forward(model, torch.float32)
    sync.rest()
    first = sync(4, trainer, forward)
    assert sync(4, trainer, forward) == first, "awake, the same version is not pushed again"
    sync.rest()
    sync.rest()
    assert sync(4, trainer, forward) == first
    assert card.told.count("update") == 2
    assert card.told.count("sleep") == 2
    asyncio.run(engine.score([[3, 4]]))


def test_where_nothing_is_shared_nobody_sleeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    slept: list[str] = []
    monkeypatch.setattr(HfEngine, "sleep", lambda self: slept.append("sleep"))
    monkeypatch.setattr(HfEngine, "wake", lambda self, part: slept.append(part))
    run(read(write_recipe(tmp_path, steps=2, every=9), tmp_path / "run"), resume=False)
    assert slept == []
