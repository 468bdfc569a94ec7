"""rebel: both conventions of eta, its identity with RLOO, its closed form, and groups of any size as one loss."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.algorithms.rollouts import rloo
from alignkit.algorithms.rollouts.rebel import ALGORITHM, Config, estimate
from alignkit.errors import BatchError
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.recipe.schema import Optimizer, Rollouts, Stage, Train
from alignkit.train.step import Step
from alignkit.types.batch import Batch
from alignkit.types.needs import REFERENCE_KL, Needs
from tests.tabular import (
    OPTIMUM,
    Bandit,
    completions,
    finite_differences,
    in_float64,
    loss_and_gradient,
    on_actions,
    one_token_each,
)
from tests.tiny import Recorder, causal_lm, random_batch

THETA = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


def config(**settings: Any) -> Config:
    return Config(type="rebel", **settings)


def ready(settings: Config, lengths: tuple[int, ...], rewards: list[float], old: list[float]) -> Batch:
    batch = completions(*lengths, rewards=rewards)
    return estimate(settings, batch.replace(old_logprobs=on_actions(batch, old)))


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [({}, 1.21), ({"eta": 2}, 0.49), ({"eta": 2, "convention": "paper"}, 0.1225)],
)
def test_the_loss_of_one_pair_in_both_conventions(settings, wanted):
    """D = 1.5 - 0, r = .4: (1.5 - .4)^2, (1.5 - .8)^2 and (.75 - .4)^2."""
    batch = ready(config(**settings), (2, 1), [0.4, 0.0], [-1.0, -1.0, -1.0])
    value, _, loss = loss_and_gradient(ALGORITHM, config(**settings), batch, [0.0, -0.5, -1.0])
    assert value == pytest.approx(wanted, abs=1e-6)
    assert loss.count == 1


def test_a_group_of_any_size_is_the_mean_over_its_distinct_pairs():
    rewards, moves = [1.0, 0.0, 0.25, 0.5], [0.3, -0.1, 0.2, 0.0]
    settings = config(eta=0.7)
    batch = ready(settings, (1, 1, 1, 1), rewards, [-1.0] * 4)
    value, gradient, _ = loss_and_gradient(ALGORITHM, settings, batch, [-1 + move for move in moves])
    given = torch.tensor(moves, requires_grad=True)
    gap = given - 0.7 * torch.tensor(rewards)
    pairs = torch.stack([(gap[i] - gap[j]) ** 2 for i, j in permutations(range(4), 2)]).mean()
    assert value == pytest.approx(pairs.item(), rel=1e-5)
    assert gradient == pytest.approx(torch.autograd.grad(pairs, given)[0].tolist(), rel=1e-5)
    variance = 2 * gap.var().item()
    assert value == pytest.approx(variance, rel=1e-5)


def test_the_mean_is_over_groups_and_those_of_one_do_not_count():
    batch = one_token_each([1, 0, 5, 1, 0.5], groups=[0, 0, 1, 2, 2])
    batch = estimate(config(), batch.replace(old_logprobs=on_actions(batch, [-1.0] * 5)))
    value, gradient, loss = loss_and_gradient(ALGORITHM, config(), batch, [-1.0] * 5)
    assert loss.count == 2
    assert value == pytest.approx((1 + 0.25) / 2)
    assert gradient[2] == 0


def test_a_batch_of_groups_of_one_is_refused_before_any_update():
    model, batch = causal_lm(), random_batch([(3, [2]), (2, [3])])
    step = Step(
        algorithm=ALGORITHM,
        config=config(),
        trainer=Recorder(model),  # ty: ignore[invalid-argument-type]  it never gives its weights away
        forward=Forward(model=model, dtype=torch.float32),
        group=Group(),
        temperature=1.0,
        max_tokens=100,
    )
    with pytest.raises(BatchError, match="nothing to train the policy on"):
        step.update(estimate(config(), batch), range(2), lr=1.0)


# --- identities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(("convention", "factor"), [("code", 4 * 0.7), ("paper", 4 / 0.7)])
def test_at_the_anchor_the_gradient_is_four_eta_times_that_of_rloo(size, convention, factor):
    """By enumeration of all groups on the three-armed bandit, eta .7: 2.8 for the code's form, whatever the size."""
    bandit = Bandit(size=size)
    got = bandit.gradient(ALGORITHM, config(eta=0.7, convention=convention), THETA)
    wanted = factor * Bandit(size=2).gradient(rloo.ALGORITHM, rloo.Config(type="rloo"), THETA)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_a_vanishing_eta_leaves_the_policy_where_it_is():
    gradients = [Bandit().gradient(ALGORITHM, config(eta=eta), THETA).norm() for eta in (1.0, 1e-3, 1e-9)]
    assert float(gradients[1]) == pytest.approx(1e-3 * float(gradients[0]), rel=1e-6)
    assert gradients[2] < 1e-8


def descend(bandit: Bandit, settings: Config, anchor: Tensor, *, steps: int, lr: float) -> Tensor:
    """The policy that minimises the loss of batches drawn from `anchor`."""
    theta = anchor.clone()
    for _ in range(steps):
        theta = theta - lr * bandit.gradient(ALGORITHM, settings, theta, drawn_from=anchor)
    return theta.softmax(0)


@pytest.mark.parametrize("size", [2, 3])
def test_its_minimum_is_the_anchor_times_exp_of_eta_times_reward(size):
    """(.5, .3, .2), rewards (1, 0, .5), eta 1: (.683368, .150838, .165794), with nothing left of the residual."""
    anchor = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    bandit = Bandit(size=size, reference=None)
    policy = descend(bandit, config(), anchor, steps=200, lr=0.5)
    assert policy.tolist() == pytest.approx([0.683368, 0.150838, 0.165794], abs=1e-6)
    residual = (policy.log() - anchor) - torch.tensor([1, 0, 0.5], dtype=torch.float64)
    assert residual.max() - residual.min() < 1e-4


def test_with_kl_in_the_reward_its_fixed_point_is_the_known_optimum():
    settings = config(kl_weight=0.5, eta=1.0)
    at_optimum = Bandit().gradient(ALGORITHM, settings, OPTIMUM.log())
    assert at_optimum.abs().max() < 1e-5  # OPTIMUM is printed to six digits
    policy = Bandit().train(ALGORITHM, settings, steps=300, lr=0.1)
    assert (policy - OPTIMUM).abs().sum() / 2 < 1e-4


def test_without_old_log_probs_the_anchor_is_the_policy_itself():
    batch = ready(config(), (1, 1), [1.0, 0.0], [-1.0, -1.0]).replace(old_logprobs=None)
    value, gradient, _ = loss_and_gradient(ALGORITHM, config(), batch, [-0.3, -2.0])
    assert value == pytest.approx(1.0)
    assert gradient == pytest.approx([-2.0, 2.0])


@pytest.mark.parametrize("settings", [{"eta": 0.7}, {"eta": 3, "convention": "paper"}, {"target": "win_rate"}])
def test_the_gradient_agrees_with_finite_differences(settings):
    old = [-1.0, -2.0, -0.5, -1.5, -0.3, -0.8]
    batch = in_float64(ready(config(**settings), (2, 3, 1), [1.5, -0.5, 0.7], old))
    logprobs = torch.tensor([-1.4, -1.7, -0.1, -1.9, -0.6, -0.2])
    gradient, differences = finite_differences(ALGORITHM, config(**settings), batch, logprobs)
    assert gradient == pytest.approx(differences, rel=1e-6, abs=1e-9)


# --- targets -----------------------------------------------------------------------------------------------------


def test_win_rates_are_against_the_others_of_the_group_and_do_not_feel_the_scale_of_far_rewards():
    """sigmoid(1) = .731059, sigmoid(2) = .880797; a group of one wins half of the time."""
    batch = one_token_each([2, 1, 0, 9], groups=[0, 0, 0, 1])
    got = estimate(config(target="win_rate", eta=10), batch).require("targets")[:, 0] / 10
    wanted = [(0.731059 + 0.880797) / 2, 0.5, (0.268941 + 0.119203) / 2, 0.5]
    assert got.tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_kl_is_taken_from_win_rates_too():
    batch = one_token_each([1, 0])
    batch = batch.replace(old_logprobs=on_actions(batch, [-1.0, -1.0]), ref_logprobs=on_actions(batch, [-2.0, -1.0]))
    got = estimate(config(target="win_rate", kl_weight=0.1), batch).require("targets")[:, 0]
    assert got.tolist() == pytest.approx([0.731059 - 0.1, 0.268941], abs=1e-6)


@pytest.mark.parametrize("target", ["reward", "win_rate"])
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.7, -3.3])
def test_without_spread_the_gradient_at_the_anchor_is_exactly_zero(target, reward):
    settings = config(target=target)
    batch = ready(settings, (2, 1, 3), [reward] * 3, [-1.0] * 6)
    assert loss_and_gradient(ALGORITHM, settings, batch, [-1.0] * 6)[1] == [0.0] * 6


# --- recipe ------------------------------------------------------------------------------------------------------


def test_a_group_of_one_is_refused_with_the_cure_and_the_anchor_is_no_model():
    stage = Stage.model_validate(
        {"data": {"source": "generator:addition"}, "algorithm": {}, "optimizer": Optimizer(lr=1e-3)}
        | {"train": Train(steps=1), "rollouts": Rollouts(group=1)}
    )
    assert ALGORITHM.requires(config(), stage)[0].endswith("set rollouts.group to at least 2")
    assert ALGORITHM.needs(config()) == Needs()
    assert ALGORITHM.needs(config(kl_weight=0.1)) == REFERENCE_KL


def test_the_objective_is_explained_in_words_that_name_every_choice():
    assert "D / 3 - r" in ALGORITHM.explain(config(eta=3, convention="paper"))
    text = ALGORITHM.explain(config(eta=3, target="win_rate", kl_weight=0.05))
    assert all(part in text for part in ("D - 3 x r", "win rate", "0.05 x KL"))
