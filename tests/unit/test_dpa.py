"""dpa: rewards weighed by each prompt's direction, and the front that one policy then covers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch

from alignkit.algorithms.rollouts.dpa import ALGORITHM, DIRECTION, Config, along_direction, estimate
from alignkit.errors import BatchError
from alignkit.recipe.schema import Optimizer, RewardSpec, Rollouts, Stage, Train
from alignkit.rollout.items import items
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.score import Score
from alignkit.types.task import Task

ARMS = ((1.0, 0.0), (0.0, 1.0), (0.8, 0.8), (0.4, 0.4))


def config(**settings: Any) -> Config:
    return Config(type="dpa", **settings)


def sampled(arms: list[int], direction: Mapping[str, float], *, group: int = 0) -> list[Item]:
    names = {f"{DIRECTION}{name}": weight for name, weight in direction.items()}
    return [
        Item(
            prompt_ids=[1],
            completion_ids=[2],
            group=group,
            member=m,
            channels={"helpful": ARMS[a][0], "short": ARMS[a][1]} | names,
        )
        for m, a in enumerate(arms)
    ]


def members(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.group.tolist(), batch.member.tolist(), strict=True))


def test_each_prompt_is_judged_by_its_own_direction():
    batch = pack(
        [
            *sampled([0, 1, 3], {"helpful": 100, "short": 20}, group=0),
            *sampled([0, 1, 3], {"helpful": 20, "short": 100}, group=1),
            *sampled([0, 1, 3], {"short": -1}, group=2),
        ]
    )
    assert along_direction(batch).tolist() == pytest.approx([100, 20, 48, 20, 100, 48, 0, -1, -0.4])
    assert members(estimate(config(), batch)) == [(0, 0), (1, 1), (2, 0)]
    assert members(estimate(config(keep=2, min_reward=0), batch)) == [(0, 0), (0, 2), (1, 1), (1, 2), (2, 0)]


def test_a_direction_that_does_not_care_leaves_nothing_to_imitate():
    assert estimate(config(), pack(sampled([0, 1, 2], {"helpful": 0}))).num_sequences == 0


def test_what_is_missing_is_named():
    with pytest.raises(BatchError, match="no task has a `direction`"):
        along_direction(pack(sampled([0, 1], {})))
    with pytest.raises(BatchError, match="names 'kind'; the rewards are helpful, short"):
        along_direction(pack(sampled([0, 1], {"kind": 1})))
    half = pack(sampled([0, 1], {"helpful": 1, "short": 0}))
    absent = half.replace(channels={**half.channels, "helpful": torch.tensor([1.0, math.nan])})
    with pytest.raises(BatchError, match="1 sequences lack the value"):
        along_direction(absent)
    unasked = half.replace(channels={**half.channels, "short": torch.tensor([1.0, math.nan])})
    assert along_direction(unasked).tolist() == [1.0, 0.0]  # what the prompt does not ask for need not have a value


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90])
def test_repeated_imitation_traces_the_front_of_two_rewards(degrees):
    """Four arms, one of them dominated; per direction (in integers, as a prompt states it) best of two over all pairs,
    until the policy is certain: what it then pays lies on the convex front, where the direction asks for."""
    angle = math.radians(degrees)
    direction = {"helpful": round(100 * math.cos(angle)), "short": round(100 * math.sin(angle))}
    policy = torch.full((4,), 1 / 4, dtype=torch.float64)
    for _ in range(6):
        kept = torch.zeros(4, dtype=torch.float64)
        for pair in product(range(4), repeat=2):
            batch = estimate(config(), pack(sampled(list(pair), direction)))
            if batch.num_sequences:
                kept[pair[int(batch.member[0])]] += policy[list(pair)].prod()
        policy = kept / kept.sum() if kept.sum() > 1e-12 else policy
    paid = policy @ torch.tensor(ARMS, dtype=torch.float64)
    best = max(math.cos(angle) * helpful + math.sin(angle) * short for helpful, short in ARMS)
    assert math.cos(angle) * paid[0] + math.sin(angle) * paid[1] == pytest.approx(best, abs=1e-3)


def test_a_tasks_direction_reaches_the_batch_beside_the_parts_of_the_reward():
    turn = Turn(prompt_ids=(1,), completion_ids=(2,), sampler_logprobs=(-1.0,), stop=StopReason.END_OF_TEXT, text="x")
    rollout = Rollout(
        task=Task(id="t/0", text="q", columns={"direction": {"helpful": 80, "short": 60}}),
        group=0,
        member=0,
        turns=(turn,),
        policy_version=0,
        score=Score(value=1.4, parts={"helpful": 0.8, "short": 0.6}),
    )
    batch = pack(items(rollout, reward=1.4))
    assert along_direction(batch).item() == pytest.approx(100)


def test_one_reward_and_no_choice_are_refused_with_the_cure():
    rewards = [RewardSpec(name="a"), RewardSpec(name="b")]

    def stage(count: int, group: int) -> Stage:
        return Stage.model_validate(
            {"data": {"source": "generator:addition"}, "algorithm": {}, "optimizer": Optimizer(lr=1e-3)}
            | {"train": Train(steps=1), "rollouts": Rollouts(group=group), "rewards": rewards[:count]}
        )

    assert ALGORITHM.requires(config(), stage(2, 4)) == []
    assert ALGORITHM.requires(config(), stage(1, 4)) == ["dpa trades several rewards off: name at least two rewards"]
    assert ALGORITHM.requires(config(), stage(2, 1))[0].startswith("dpa keeps 1 of a prompt's 1 completions")
    assert "direction that each prompt states" in ALGORITHM.explain(config())
