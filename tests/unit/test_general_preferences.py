"""sppo and nash_md: win rates, the published numbers, and rock-paper-scissors, which no reward can express."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch

from alignkit import ops
from alignkit.algorithms.rollouts import nash_md, rloo, sppo
from alignkit.recipe.schema import Optimizer, Rollouts, Stage, Train
from alignkit.types.batch import Batch
from tests.tabular import (
    Bandit,
    completions,
    finite_differences,
    in_float64,
    loss_and_gradient,
    on_actions,
    one_token_each,
)

POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
BEATS = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.9], [0.8, 0.1, 0.5]], dtype=torch.float64)
SCISSORS = torch.tensor([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]], dtype=torch.float64)
UNIFORM = torch.full((3,), 1 / 3, dtype=torch.float64)


def sppo_config(**settings: Any) -> sppo.Config:
    return sppo.Config(type="sppo", **settings)


def nash_config(**settings: Any) -> nash_md.Config:
    return nash_md.Config(type="nash_md", **settings)


def stage(group: int) -> Stage:
    return Stage.model_validate(
        {"data": {"source": "generator:addition"}, "algorithm": {}, "optimizer": Optimizer(lr=1e-3)}
        | {"train": Train(steps=1), "rollouts": Rollouts(group=group)}
    )


@pytest.fixture
def play(monkeypatch):
    """Makes rewards the numbers of arms, and a matrix say which arm beats which."""

    def by(matrix):
        monkeypatch.setattr(ops.groups, "bradley_terry", lambda arms: matrix[arms.long()][:, arms.long()])

    return by


# --- win rates ---------------------------------------------------------------------------------------------------


def test_the_win_rate_within_a_group_estimates_that_against_the_policy_without_bias():
    """Expected over the other samples: P(y beats policy) = (.56, .38, .53), and exponential weights at eta 1 go on to
    (.529285, .265258, .205457)."""
    expected = torch.zeros(3, dtype=torch.float64)
    for arms in product(range(3), repeat=3):
        index = torch.tensor(arms)
        wins = ops.groups.win_rate(BEATS[index][:, index], torch.zeros(3, dtype=torch.long))
        expected[arms[0]] += POLICY[index[1:]].prod() * wins[0]
    assert expected.tolist() == pytest.approx([0.56, 0.38, 0.53], abs=1e-12)
    following = POLICY * expected.exp()
    assert (following / following.sum()).tolist() == pytest.approx([0.529285, 0.265258, 0.205457], abs=1e-6)


def test_opponents_count_by_their_weights_whatever_their_scale():
    beats, group = BEATS[:, [0, 1, 2]], torch.tensor([4, 4, 4])
    weights = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    wanted = [(3 * 0.9 + 2 * 0.2) / 5, (0.1 + 2 * 0.9) / 3, (0.8 + 3 * 0.1) / 4]
    for scale in (1.0, 1e-6):
        got = ops.groups.win_rate(beats, group, weights=scale * weights)
        assert got.tolist() == pytest.approx(wanted, abs=1e-12)


def test_only_completions_of_one_prompt_play_each_other():
    batch = one_token_each([1, 0, 5, 2, 2], groups=[0, 0, 1, 2, 2])
    targets = sppo.estimate(sppo_config(eta=2.0), batch).require("targets")[:, 0]
    assert targets.tolist() == pytest.approx([0.462117, -0.462117, 0, 0, 0], abs=1e-6)  # 2 sigmoid(1) - 1


# --- sppo --------------------------------------------------------------------------------------------------------


def test_the_loss_of_two_completions_by_hand():
    """D 1 and -.5, win rates .8 and .2, eta 1000: (299^2 + 299.5^2) / 2 = 89550.625."""
    batch = completions(2, 1)
    batch = batch.replace(old_logprobs=on_actions(batch, [-1.0] * 3), targets=torch.tensor([[300.0], [-300.0]]))
    value, gradient, loss = loss_and_gradient(sppo.ALGORITHM, sppo_config(), batch, [-0.5, -0.5, -1.5])
    assert value == pytest.approx(89550.625)
    assert gradient == pytest.approx([-299.0, -299.0, 299.5])
    assert loss.count == 2


def test_at_the_anchor_sppo_pulls_with_twice_eta_times_the_gap_to_half():
    settings = sppo_config(eta=3.0)
    batch = sppo.estimate(settings, one_token_each([1, 0]))
    gradient = loss_and_gradient(sppo.ALGORITHM, settings, batch, [-1.0, -1.0])[1]
    assert gradient == pytest.approx([-3 * 0.231059, 3 * 0.231059], abs=5e-6)


def test_sppo_agrees_with_finite_differences():
    batch = completions(2, 3, 1, rewards=[1.5, -0.5, 0.7])
    batch = batch.replace(old_logprobs=on_actions(batch, [-1.0, -2.0, -0.5, -1.5, -0.3, -0.8]))
    batch = in_float64(sppo.estimate(sppo_config(), batch))
    logprobs = torch.tensor([-1.4, -1.7, -0.1, -1.9, -0.6, -0.2])
    gradient, differences = finite_differences(sppo.ALGORITHM, sppo_config(), batch, logprobs)
    assert gradient == pytest.approx(differences, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("reward", [0.0, 0.1, -3.3])
def test_without_spread_the_gradient_is_exactly_zero(reward):
    batch = sppo.estimate(sppo_config(), completions(2, 1, 3, rewards=[reward] * 3))
    assert loss_and_gradient(sppo.ALGORITHM, sppo_config(), batch, [-1.0] * 6)[1] == [0.0] * 6


def test_the_average_sppo_policy_of_rock_paper_scissors_is_the_nash_policy_while_the_last_one_cycles(play):
    play(SCISSORS)
    bandit, settings = Bandit(payoffs=(0, 1, 2), reference=None), sppo_config(eta=0.3)
    theta = POLICY.log()
    iterates = []
    for _ in range(150):
        anchor = theta
        for _ in range(8):
            theta = theta - 0.6 * bandit.gradient(sppo.ALGORITHM, settings, theta, drawn_from=anchor)
        iterates.append(theta.softmax(0))
    average = torch.stack(iterates).mean(0)
    assert (average - UNIFORM).abs().max() < 0.03
    assert (iterates[-1] - UNIFORM).abs().max() > 0.2


# --- nash-md -----------------------------------------------------------------------------------------------------


def drawn(rewards: list[float], old: list[float], reference: list[float]) -> Batch:
    batch = one_token_each(rewards)
    return batch.replace(old_logprobs=on_actions(batch, old), ref_logprobs=on_actions(batch, reference))


def test_advantages_by_hand():
    """Rewards 1, 0, 2; log-ratios to the reference ln 4, 0, -ln 4, so weights at mixture .5 are 1/2, 1, 2."""
    batch = drawn([1, 0, 2], [-1.0] * 3, [-1 - math.log(4), -1.0, -1 + math.log(4)])
    got = nash_md.estimate(nash_config(kl_weight=0.1), batch).require("advantages")[batch.action_mask]
    one, two = (torch.tensor(x).sigmoid().item() for x in (1.0, 2.0))
    wins = [(one * 1 + (1 - one) * 2) / 3, ((1 - one) / 2 + (1 - two) * 2) / 2.5, (one / 2 + two) / 1.5]
    ln4 = math.log(4)
    penalty = [0.1 * 1.5 * ln4, 0.0, -0.1 * 1.5 * ln4]
    assert got.tolist() == pytest.approx([w - 0.5 - p for w, p in zip(wins, penalty, strict=True)], abs=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_in_self_play_the_gradient_is_that_of_the_win_rate_less_the_kl(play, size):
    """Exactly, over all groups: d/d theta of sum_y policy(y) (P(y beats policy, held) - .3 log policy / reference)."""
    play(BEATS)
    theta = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    bandit = Bandit(payoffs=(0, 1, 2), size=size)
    got = -bandit.gradient(nash_md.ALGORITHM, nash_config(mixture=0.0, kl_weight=0.3), theta)
    wins = BEATS @ theta.softmax(0)
    true = Bandit(payoffs=wins.tolist()).ascent(theta, kl_weight=0.3)
    torch.testing.assert_close(got, true, rtol=1e-9, atol=1e-12)


def test_the_weighted_opponents_approach_the_mixture_as_groups_grow(play):
    """The share of error that is left of the gradient of P(y beats mixture) falls with the size of the group."""
    play(BEATS)
    theta = POLICY.log()
    reference = torch.tensor([0.1, 0.8, 0.1], dtype=torch.float64)
    mixed = (POLICY * reference).sqrt()
    true = Bandit(payoffs=(BEATS @ (mixed / mixed.sum())).tolist()).ascent(theta)
    errors = []
    for size in (2, 4, 6):
        bandit = Bandit(payoffs=(0, 1, 2), reference=reference, size=size)
        got = -bandit.gradient(nash_md.ALGORITHM, nash_config(kl_weight=0.0), theta)
        errors.append(float((got - true).norm() / true.norm()))
    assert errors[0] > 2 * errors[1]
    assert errors[1] > 1.5 * errors[2]
    assert errors[2] < 0.2


def test_the_last_nash_md_policy_of_rock_paper_scissors_stands_still_at_the_nash_policy(play):
    play(SCISSORS)
    bandit = Bandit(payoffs=(0, 1, 2), reference=UNIFORM, size=3)
    theta = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
    for _ in range(200):
        theta = theta - 1.0 * bandit.gradient(nash_md.ALGORITHM, nash_config(kl_weight=0.2), theta)
    assert (theta.softmax(0) - UNIFORM).abs().max() < 1e-3


def test_nash_md_has_the_loss_and_the_settings_of_rloo():
    assert nash_md.ALGORITHM.losses is rloo.ALGORITHM.losses
    batch = drawn([1, 0, 0.9], [-1.0] * 3, [-1.0] * 3)
    kept = nash_md.estimate(nash_config(min_advantage=0.2), batch)
    assert kept.member.tolist() == [1]  # .615, .25 and .60 less a half


# --- recipe ------------------------------------------------------------------------------------------------------


def test_groups_that_are_too_small_are_refused_with_the_cure():
    assert "at least 2" in sppo.ALGORITHM.requires(sppo_config(), stage(1))[0]
    assert sppo.ALGORITHM.requires(sppo_config(), stage(2)) == []
    assert "at least 2" in nash_md.ALGORITHM.requires(nash_config(), stage(1))[0]
    assert "at least 3" in nash_md.ALGORITHM.requires(nash_config(), stage(2))[0]
    assert nash_md.ALGORITHM.requires(nash_config(mixture=0.0), stage(2)) == []


def test_the_objectives_are_explained():
    assert "5 x (win rate in the group - 1/2)" in sppo.ALGORITHM.explain(sppo_config(eta=5))
    assert "policy^0.75 x reference^0.25" in nash_md.ALGORITHM.explain(nash_config(mixture=0.25))
