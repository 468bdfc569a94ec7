"""Group statistics: the eight rewards (1,0,0,1,0,0,0,0), and what dividing by the standard deviation does to a task."""

from itertools import product
from math import comb

import pytest
import torch

from alignkit import ops

REWARDS = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0])
ONE_GROUP = torch.zeros(8, dtype=torch.long)


def pair(values: torch.Tensor) -> list[float]:
    """What a right and a wrong answer of REWARDS get; all right ones must get the same, and all wrong ones."""
    assert values[REWARDS == 1].unique().numel() == values[REWARDS == 0].unique().numel() == 1
    return [values[0].item(), values[1].item()]


def test_centred_scaled_and_leave_one_out_advantages():
    centred = ops.groups.centre(REWARDS, ONE_GROUP)
    assert pair(centred) == pytest.approx([0.75, -0.25])
    scaled = centred / (ops.groups.std(REWARDS, ONE_GROUP) + ops.groups.STD_EPS)
    assert pair(centred / ops.groups.std(REWARDS, ONE_GROUP)) == pytest.approx([1.620185, -0.540062], abs=1e-6)
    assert pair(scaled) == pytest.approx([1.619835, -0.539945], abs=1e-6)  # with the 1e-4 that TRL adds, too
    with_1e6 = centred / (ops.groups.std(REWARDS, ONE_GROUP) + 1e-6)
    assert pair(with_1e6) == pytest.approx([1.620182, -0.540061], abs=1e-6)
    assert pair(ops.groups.leave_one_out(REWARDS, ONE_GROUP)) == pytest.approx([0.857143, -0.285714], abs=1e-6)


def test_two_answers_get_plus_and_minus_one_over_root_two():
    values, group = torch.tensor([0.3, 0.9]), torch.tensor([4, 4])
    scaled = ops.groups.centre(values, group) / ops.groups.std(values, group)
    assert scaled.tolist() == pytest.approx([-0.707107, 0.707107], abs=1e-6)


@pytest.mark.parametrize(
    ("probability", "scaled"), [(0.05, 2.313), (0.1, 2.177), (0.25, 1.895), (0.5, 1.736), (0.95, 2.313)]
)
def test_scaling_by_the_deviation_favours_tasks_that_are_nearly_solved_or_hopeless(probability, scaled):
    """Expected gradient on the success probability p for G = 8, over all numbers of successes. Centred advantages:
    (G-1)/G = .875 for every p. Divided by the standard deviation with the n-1 divisor (and an epsilon of at most 1e-6
    for three digits; the population divisor would give 2.473, 2.328, 2.026, 1.856): more where p is extreme."""
    plain = deviation = with_epsilon = 0.0
    for successes in range(9):
        rewards = (torch.arange(8) < successes).double()
        centred = ops.groups.centre(rewards, ONE_GROUP)
        std = ops.groups.std(rewards, ONE_GROUP)
        weight = comb(8, successes) * probability**successes * (1 - probability) ** (8 - successes)
        score = torch.where(rewards == 1, 1 / probability, -1 / (1 - probability))  # d log P(answer) / dp
        plain += weight * (centred * score).mean().item()
        deviation += weight * (centred / (std + 1e-12) * score).mean().item()
        with_epsilon += weight * (centred / (std + ops.groups.STD_EPS) * score).mean().item()
    assert plain == pytest.approx(0.875)
    assert deviation == pytest.approx(scaled, abs=5e-4)
    assert with_epsilon == pytest.approx(scaled, abs=1.1e-3)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_leave_one_out_is_unbiased_and_centring_shrinks_by_one_over_the_group(size):
    """All 2^G outcomes of a two-armed bandit, p = sigmoid(theta), payoffs .2 and 1."""
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    probability = theta.sigmoid()
    payoff = torch.tensor([0.2, 1.0], dtype=torch.float64)
    true = torch.autograd.grad(probability * payoff[1] + (1 - probability) * payoff[0], theta, retain_graph=True)[0]
    logprobs = torch.stack([1 - probability, probability]).log()
    group = torch.zeros(size, dtype=torch.long)
    expected = dict.fromkeys(("leave_one_out", "centre"), torch.zeros((), dtype=torch.float64))
    for arms in product((0, 1), repeat=size):
        chosen = logprobs[list(arms)]
        for name in expected:
            advantages = getattr(ops.groups, name)(payoff[list(arms)], group)
            expected[name] = expected[name] + chosen.sum().exp().detach() * (advantages * chosen).mean()
    gradients = {name: torch.autograd.grad(value, theta, retain_graph=True)[0] for name, value in expected.items()}
    assert gradients["leave_one_out"].item() == pytest.approx(true.item(), rel=1e-12)
    assert gradients["centre"].item() == pytest.approx(true.item() * (size - 1) / size, rel=1e-12)


def test_the_share_of_groups_without_spread_is_that_of_the_binomial():
    """P(no spread) at G = 8 is p^8 + (1-p)^8: .663 at p = .05, .430 at .1, .008 at .5."""
    for probability, wanted in ((0.05, 0.663), (0.1, 0.430), (0.5, 0.008)):
        share = 0.0
        for successes in range(9):
            weight = comb(8, successes) * probability**successes * (1 - probability) ** (8 - successes)
            signal = ops.groups.centre((torch.arange(8) < successes).float(), ONE_GROUP)
            share += weight * (not signal.any())
        assert share == pytest.approx(wanted, abs=5e-4)


def test_who_has_no_opponent_wins_half_of_the_time():
    """Alone in the batch, alone in a group, and against one who is never met."""
    half = torch.tensor([0.5])
    assert ops.groups.win_rate(half[:, None], torch.tensor([0])).tolist() == [0.5]
    beats = torch.tensor([[0.5, 0.8, 0.9], [0.2, 0.5, 0.7], [0.1, 0.3, 0.5]])
    assert ops.groups.win_rate(beats, torch.tensor([0, 0, 1])).tolist() == pytest.approx([0.8, 0.2, 0.5])
    weights = torch.tensor([0.25, 0.0, 1.0])
    assert ops.groups.win_rate(beats, torch.tensor([0, 0, 1]), weights=weights).tolist() == pytest.approx(
        [0.5, 0.2, 0.5]
    )
