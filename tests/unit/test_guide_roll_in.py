"""RLGF's roll-ins: a guide writes the beginning, the policy the rest; only that is trained, the whole is scored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from alignkit.data.offline.example import Example
from alignkit.recipe.schema import Rollouts
from alignkit.rollout.answers import Answers
from alignkit.rollout.collect import Collector
from alignkit.rollout.guide_roll_in import GuideRollIn
from alignkit.train.source import Order, RolloutSource
from alignkit.types.rollout import Completion, StopReason
from alignkit.types.score import Score
from alignkit.types.seeds import child
from alignkit.types.task import Task

ANSWER = (10, 11, 12, 13, 14)


class Player:
    """An engine that always says 7, 8; remembers what it was asked."""

    policy_version = 0

    def __init__(self) -> None:
        self.requests = []

    async def generate(self, requests) -> list[Completion]:
        self.requests += requests
        said = {"token_ids": (7, 8), "logprobs": (-1.0, -1.0), "stop": StopReason.END_OF_TEXT, "versions": ((0, 0),)}
        return [Completion(**said) for _ in requests]


class Length:
    """Scores a text by its length in characters."""

    async def score(self, groups) -> list[list[Score]]:
        return [[Score(value=float(len(rollout.text))) for rollout in rollouts] for _, rollouts in groups]


def letters(ids: Sequence[int]) -> str:
    return "".join(chr(90 + i) for i in ids)


def source(guided: float) -> RolloutSource:
    collector = Collector(
        engine=Player(),
        play=GuideRollIn(play=Answers(decode=letters), share=guided),
        scorer=Length(),
        decode=letters,
        stop_token_ids=(),
        settings=Rollouts(engine="hf", prompts=200, group=2, max_new_tokens=3),
        seed=5,
    )
    examples = [Example(task=Task(id=f"{i}", text="q"), prompt=(1, 2), completion=ANSWER) for i in range(200)]
    order = Order(examples=examples, seed=0, shuffle=False)
    return RolloutSource(order=order, collector=collector, share_prefix=True, run=asyncio.run)


def test_the_guides_part_and_the_policys_part_make_the_whole_completion():
    drawn = source(1.0).next(0, 0)
    for rollout in drawn.rollouts:
        begun = rollout.turns[0].prompt_ids[2:]
        assert begun == ANSWER[: len(begun)]
        assert 1 <= len(begun) < len(ANSWER)
        assert rollout.reward == len(begun) + 2  # both parts are scored
    batch = drawn.batch
    assert batch.num_actions == 400 * 2
    assert set(batch.tokens[batch.action_mask].tolist()) == {7, 8}


def test_members_of_a_group_begin_alike_and_every_length_occurs():
    drawn = source(1.0).next(0, 0)
    lengths = {}
    for rollout in drawn.rollouts:
        lengths.setdefault(rollout.group, set()).add(len(rollout.turns[0].prompt_ids))
    assert all(len(each) == 1 for each in lengths.values())
    assert set().union(*lengths.values()) == {3, 4, 5, 6}


def test_half_of_the_prompts_are_guided_and_the_draw_is_the_same_again():
    first, second = source(0.5).next(0, 0), source(0.5).next(0, 0)
    begun = [len(rollout.turns[0].prompt_ids) > 2 for rollout in first.rollouts]
    assert sum(begun) / len(begun) == pytest.approx(0.5, abs=0.1)
    assert [r.turns[0].prompt_ids for r in first.rollouts] == [r.turns[0].prompt_ids for r in second.rollouts]


def test_what_the_guide_says_is_named_by_the_prompts_position_so_that_a_resumed_run_hears_the_same():
    drawn = source(0.5).next(60, 0)
    for position, rollout in enumerate(drawn.rollouts[::2], start=60):
        rng = np.random.default_rng(child(5, "guide", position))
        begun = ANSWER[: rng.integers(1, 5)] if rng.random() < 0.5 else ()
        assert rollout.turns[0].prompt_ids == (1, 2, *begun)


def test_without_a_guide_nothing_is_different():
    off, guide = source(0.0), source(0.0)
    bare = replace(guide, collector=replace(guide.collector, play=guide.collector.play.play))
    assert [r.turns for r in bare.next(0, 0).rollouts] == [r.turns for r in off.next(0, 0).rollouts]
    assert {request.prompt_ids for request in bare.collector.engine.requests} == {(1, 2)}
