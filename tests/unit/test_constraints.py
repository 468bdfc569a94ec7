"""Constraints: the mixed reward, multipliers that move and saturate, and the constrained optimum of a bandit."""

from __future__ import annotations

import math

import pytest
import torch

from alignkit import ops
from alignkit.errors import BatchError
from alignkit.recipe.schema import Constraint
from alignkit.train.hooks.constraints import Constraints
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item


def batch_of(paid: list[float], costs: list[float], **changes) -> Batch:
    return pack(
        [
            Item(prompt_ids=[1], completion_ids=[2, 3], reward=reward, channels={"harm": cost}, group=i, **changes)
            for i, (reward, cost) in enumerate(zip(paid, costs, strict=True))
        ]
    )


def constraint(**settings) -> Constraint:
    return Constraint(**({"of": "harm", "limit": 0.0} | settings))


def test_a_reward_of_1_and_a_cost_of_a_half_at_multiplier_2_cancel():
    mixed = ops.constraint.mixed(torch.tensor([1.0, 4.0]), torch.tensor([[0.5, 0.5]]), torch.tensor([2.0]))
    assert mixed.tolist() == [0.0, 1.0]
    both = ops.constraint.mixed(torch.tensor([4.0]), torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 0.5]))
    assert both.tolist() == pytest.approx([(4 - 1 - 1) / 2.5])


def test_the_multiplier_moves_in_log_space_and_stops_at_its_cap():
    assert ops.constraint.next_multiplier(1.0, 0.5, lr=0.1, cap=5.0) == pytest.approx(1.051271, abs=1e-6)
    assert ops.constraint.next_multiplier(1.0, -0.5, lr=0.1, cap=5.0) == pytest.approx(1 / 1.051271, abs=1e-6)
    assert ops.constraint.next_multiplier(4.9, 50.0, lr=0.1, cap=5.0) == pytest.approx(5.0)


def test_it_waits_for_the_delay_and_averages_over_the_window():
    limits = Constraints(settings=[constraint(lr=1.0, delay=2, window=2)])
    memory = limits.begin()
    seen = []
    for step, cost in enumerate((9.0, 1.0, 0.0, 0.0)):
        _, memory, metrics = limits.before_estimate(batch_of([0.0], [cost]), memory, step)
        seen.append(metrics["constraint/multiplier/harm"])
    assert seen[:2] == [1.0, 1.0]
    assert seen[2] == pytest.approx(math.exp(0.5))  # mean of 1 and 0
    assert seen[3] == pytest.approx(seen[2])  # mean of 0 and 0
    assert metrics["constraint/cost/harm"] == 0.0


def test_saturation_is_counted():
    limits = Constraints(settings=[constraint(lr=10.0, cap=2.0), constraint(of="length", limit=100.0)])
    batch, _, metrics = limits.before_estimate(batch_of([1.0], [3.0]), limits.begin(), 0)
    assert metrics["constraint/saturated"] == 1
    assert metrics["constraint/cost/length"] == 2
    low = metrics["constraint/multiplier/length"]
    assert batch.reward.tolist() == pytest.approx([(1 - 2 * 3 - low * 2) / (1 + 2 + low)])


def test_rewards_on_tokens_are_scaled_and_costs_are_paid_after_the_last_action():
    limits = Constraints(settings=[constraint(lr=1e-9)])
    before = batch_of([3.0], [1.0], rewards=[2.0, 1.0])
    after, _, _ = limits.before_estimate(before, limits.begin(), 0)
    assert after.rewards.tolist() == pytest.approx([0.0, 1.0, 0.0])  # (2, 1) / 2, and 1 x 1 / 2 less at the end
    assert after.reward.item() == pytest.approx(after.rewards.sum().item()) == pytest.approx(1.0)


def test_a_cost_that_is_unknown_or_missing_is_named():
    with pytest.raises(BatchError, match="no cost is called 'harms'; the batch has length, truncated, kl, harm"):
        Constraints(settings=[constraint(of="harms")]).cost(batch_of([0.0], [0.0]), "harms")
    with pytest.raises(BatchError, match="'harm' has no value for 1 sequences"):
        Constraints(settings=[constraint()]).cost(batch_of([0.0, 0.0], [0.0, math.nan]), "harm")


def test_a_bandit_with_a_costly_best_arm_goes_to_the_saddle_point():
    """Arm 0 pays 1 and costs 1, arm 1 nothing; mean cost at most 0.3, entropy weighs 0.2.

    The best policy for a multiplier m has logit (1 - m) / (1 + m) / 0.2. p = 0.3 is logit -0.8473, so m = 1.408.
    """
    limits = Constraints(settings=[constraint(limit=0.3, lr=0.2, multiplier=0.5, cap=50.0)])
    logit, memory = 0.0, limits.begin()
    for step in range(80):  # it stands still from the 50th
        share = 1 / (1 + math.exp(-logit))
        draws = round(share * 200)
        arms = [1.0] * draws + [0.0] * (200 - draws)
        batch, memory, metrics = limits.before_estimate(batch_of(arms, arms), memory, step)
        costly = torch.tensor(arms) == 1
        gain = float(batch.reward[costly].mean() - batch.reward[~costly].mean())
        logit += 0.5 * (gain / 0.2 - logit)
    assert share == pytest.approx(0.3, abs=0.01)
    assert metrics["constraint/multiplier/harm"] == pytest.approx(1.408, abs=0.02)


def test_a_multiplier_of_2_with_an_excess_of_one_half_grows_by_the_exponential_of_a_tenth():
    assert ops.constraint.next_multiplier(2.0, 0.5, lr=0.1, cap=10.0) == pytest.approx(2 * math.exp(0.1))
    assert ops.constraint.next_multiplier(2.0, 0.5, lr=0.1, cap=2.1) == pytest.approx(2.1)
