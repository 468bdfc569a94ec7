"""reinforce: returns from each token on, its baselines, REINFORCE++ as settings, and expectations by enumeration."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from alignkit.algorithms.rollouts import rloo
from alignkit.algorithms.rollouts.reinforce import ALGORITHM, Config, estimate
from alignkit.recipe.schema import Optimizer, Rollouts, Stage, Train
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
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

THETA = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
PLUS_PLUS = {"baseline": "none", "whiten": True, "surrogate": "clip", "aggregate": "token_mean"}


def config(**settings: Any) -> Config:
    return Config(type="reinforce", **settings)


def advantages(settings: Config, batch: Batch) -> list[float]:
    return estimate(settings, batch).require("advantages")[batch.action_mask].tolist()


# --- advantages --------------------------------------------------------------------------------------------------


def test_a_token_gets_what_is_paid_from_it_on_discounted_per_token_of_the_policy():
    """Paid (.1, tool, tool, .2, 1): the tool's tokens take no discount. gamma .5: 1, .2 + .5, .1 + .35."""
    item = Item(
        prompt_ids=[1],
        completion_ids=[2] * 5,
        action=[True, False, False, True, True],
        rewards=[0.1, 0, 0, 0.2, 1.0],
        reward=1.3,
    )
    got = estimate(config(baseline="none", discount=0.5), pack([item])).require("advantages")
    assert got.tolist() == pytest.approx([0, 0.45, 0, 0, 0.7, 1.0])
    assert advantages(config(baseline="none"), pack([item])) == pytest.approx([1.3, 1.2, 1.0])


def test_each_baseline_is_the_mean_reward_of_what_it_names():
    batch = one_token_each([1, 0, 0, 0, 3], groups=[0, 0, 1, 1, 1])
    assert advantages(config(baseline="none"), batch) == [1, 0, 0, 0, 3]
    assert advantages(config(baseline="batch"), batch) == pytest.approx([0.2, -0.8, -0.8, -0.8, 2.2])
    assert advantages(config(baseline="group"), batch) == pytest.approx([0.5, -0.5, -1, -1, 2])


def test_the_kl_is_paid_per_token_and_belongs_to_the_baseline_too():
    """old - ref (1, 0, -1) and (1, 1, 1) at weight .1: paid (-.1, 0, 1.1) and (-.1, -.1, .9), 1 and .7 in all."""
    batch = completions(3, 3, rewards=[1, 1])
    batch = batch.replace(
        old_logprobs=on_actions(batch, [-1, -2, -3, -1, -1, -1.0]),
        ref_logprobs=on_actions(batch, [-2, -2, -2, -2, -2, -2.0]),
    )
    got = advantages(config(kl_weight=0.1), batch)
    assert got == pytest.approx([0.15, 0.25, 0.25, -0.15, -0.05, 0.05], abs=1e-6)


def test_whitening_is_over_all_action_tokens_of_the_batch():
    """Advantages (1, 1, 1, -1): mean .5, population variance .75."""
    batch = completions(3, 1, rewards=[1, -1])
    got = advantages(config(baseline="none", whiten=True), batch)
    assert got == pytest.approx([0.57735] * 3 + [-1.732051], abs=1e-5)


@pytest.mark.parametrize("settings", [{}, {"baseline": "group"}, {"whiten": True}, PLUS_PLUS])
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.7, -3.3])
def test_without_spread_the_gradient_is_exactly_zero(settings, reward):
    """Rounding in a mean, divided by the deviation of nothing, would become a step of full size under Adam."""
    batch = estimate(config(**settings), completions(2, 1, 3, 3, 1, rewards=[reward] * 5))
    assert loss_and_gradient(ALGORITHM, config(**settings), batch, [-1.0] * 10)[1] == [0.0] * 10


# --- what it promises in expectation -----------------------------------------------------------------------------


def test_without_a_baseline_the_gradient_is_unbiased_even_for_single_samples():
    for size in (1, 2, 3):
        got = -Bandit(size=size).gradient(ALGORITHM, config(baseline="none"), THETA)
        torch.testing.assert_close(got, Bandit().ascent(THETA), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_mean_that_holds_the_sample_itself_shrinks_the_gradient_by_one_over_their_number(size):
    got = -Bandit(size=size).gradient(ALGORITHM, config(baseline="group"), THETA)
    torch.testing.assert_close(got, Bandit().ascent(THETA) * (size - 1) / size, rtol=1e-9, atol=1e-12)


def test_with_kl_it_converges_to_the_known_optimum_of_the_bandit():
    policy = Bandit().train(ALGORITHM, config(baseline="none", kl_weight=0.5), steps=300, lr=0.5)
    assert (policy - OPTIMUM).abs().sum() / 2 < 1e-4


def test_on_one_token_it_is_rloo_up_to_the_size_of_the_group():
    """Group mean times G/(G-1) is the mean of the others."""
    own = Bandit(size=3).gradient(ALGORITHM, config(baseline="group"), THETA)
    others = Bandit(size=3).gradient(rloo.ALGORITHM, rloo.Config(type="rloo"), THETA)
    torch.testing.assert_close(own * 3 / 2, others, rtol=1e-9, atol=1e-12)


# --- losses ------------------------------------------------------------------------------------------------------


def ready(lengths: tuple[int, ...], values: list[float], old: list[float]) -> Batch:
    batch = completions(*lengths)
    column = on_actions(batch, old)
    return batch.replace(advantages=batch.spread(torch.tensor(values)), old_logprobs=column, sampler_logprobs=column)


def test_the_aggregates_weigh_tokens_as_they_say():
    batch = ready((1, 3), [1.0, -1.0], [-1.0] * 4)
    for mode, weights in {
        "sequence_mean_token_sum": [1 / 2] * 4,
        "sequence_mean_token_mean": [1 / 2] + [1 / 6] * 3,
        "token_mean": [1 / 4] * 4,
    }.items():
        value, gradient, _ = loss_and_gradient(ALGORITHM, config(aggregate=mode), batch, [-2.0] * 4)
        wanted = [-w * a for w, a in zip(weights, [1, -1, -1, -1], strict=True)]
        assert gradient == pytest.approx(wanted), mode
        assert value == pytest.approx(sum(-2 * slope for slope in wanted), abs=1e-6)


def test_the_clipped_form_is_that_of_ppo():
    """Ratios e^.3 (A 1, clipped at 1.2), e^-.3 = .740818 (A 1, kept), 1 (A -2)."""
    batch = ready((2, 1), [1.0, -2.0], [-1.0, -1.0, -1.0])
    value, gradient, loss = loss_and_gradient(ALGORITHM, config(**PLUS_PLUS), batch, [-0.7, -1.3, -1.0])
    assert value == pytest.approx((-1.2 - 0.740818 + 2) / 3, abs=1e-6)
    assert gradient == pytest.approx([0, -0.740818 / 3, 2 / 3], abs=1e-6)
    assert loss.metrics["policy/clip_frac"].value == pytest.approx(2 / 3)


def test_at_ratio_one_the_clipped_form_has_the_gradient_of_reinforce():
    batch = ready((2, 1), [1.5, -0.5], [-1.0, -2.0, -0.5])
    clipped, plain = (
        loss_and_gradient(ALGORITHM, config(surrogate=how), batch, [-1.0, -2.0, -0.5])[1]
        for how in ("clip", "reinforce")
    )
    assert clipped == pytest.approx(plain, abs=1e-7)


@pytest.mark.parametrize("settings", [{}, PLUS_PLUS])
def test_the_gradient_agrees_with_finite_differences(settings):
    batch = in_float64(ready((2, 3), [1.5, -0.5], [-1.0, -2.0, -0.5, -1.5, -0.3]))
    logprobs = torch.tensor([-1.05, -1.98, -0.44, -1.58, -0.33])
    gradient, differences = finite_differences(ALGORITHM, config(**settings), batch, logprobs)
    assert gradient == pytest.approx(differences, rel=1e-6, abs=1e-9)


def test_the_gap_between_sampler_and_trainer_is_weighed_and_capped():
    batch = ready((1, 1), [1.0, -1.0], [-1.0, -1.0])
    batch = batch.replace(sampler_logprobs=on_actions(batch, [-1 - math.log(1.5), -1 - math.log(3)]))
    assert loss_and_gradient(ALGORITHM, config(), batch, [-1.0] * 2)[1] == pytest.approx([-0.75, 1.0])


def test_the_entropy_bonus_pulls_on_each_tokens_entropy_by_its_weight_in_the_loss():
    batch = ready((2, 1), [2.0, -1.0], [-1.0, -1.0, -1.0])
    entropy = on_actions(batch, [1.0, 2.0, 3.0]).requires_grad_()
    for settings, weights in (({}, [0.5, 0.5, 0.5]), ({"aggregate": "token_mean"}, [1 / 3] * 3)):
        outputs = Outputs(logprobs=on_actions(batch, [-1.0] * 3), entropy=entropy)
        loss = ALGORITHM.losses["policy"](config(entropy_weight=0.1, **settings), outputs, batch)
        gradient = torch.autograd.grad(loss.total / loss.count, entropy)[0][batch.action_mask]
        assert gradient.tolist() == pytest.approx([-0.1 * weight for weight in weights])


# --- recipe ------------------------------------------------------------------------------------------------------


def test_only_the_group_baseline_needs_groups():
    stage = Stage.model_validate(
        {"data": {"source": "generator:addition"}, "algorithm": {}, "optimizer": Optimizer(lr=1e-3)}
        | {"train": Train(steps=1), "rollouts": Rollouts(group=1)}
    )
    assert ALGORITHM.requires(config(), stage) == []
    assert "set rollouts.group to at least 2" in ALGORITHM.requires(config(baseline="group"), stage)[0]


def test_the_objective_is_explained_in_words_that_name_every_choice():
    text = ALGORITHM.explain(config(**PLUS_PLUS, kl_weight=0.01, discount=0.99))
    for part in ("discount 0.99", "whitened", "within 0.2 of 1", "token_mean", "weight 0.01"):
        assert part in text
