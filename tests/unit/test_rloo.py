"""rloo: its baseline, its unbiasedness over all groups, sequence and token ratios by hand, and TRL's own code."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignkit.algorithms.rollouts import grpo
from alignkit.algorithms.rollouts.rloo import ALGORITHM, Config, PolicyLoss, estimate
from alignkit.errors import BatchError
from alignkit.recipe.schema import Optimizer, Rollouts, Stage, Train
from alignkit.types.batch import Batch
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
from tests.trls import trl_module

THETA = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


def config(**settings: Any) -> Config:
    loss = PolicyLoss(**{name: settings.pop(name) for name in PolicyLoss.model_fields.keys() & settings})
    return Config(type="rloo", loss=loss, **settings)


LOOP = {"unit": "token", "clip_range": "symmetric", "clip": 0.1}


def advantages(settings: Config, batch: Batch) -> list[float]:
    kept = estimate(settings, batch)
    return kept.require("advantages")[kept.action_mask].tolist()


# --- advantages --------------------------------------------------------------------------------------------------


def test_the_baseline_of_eight_rewards_is_the_mean_of_the_other_seven():
    rewards = [1.0, 0, 0, 1, 0, 0, 0, 0]
    wanted = [0.857143 if reward else -0.285714 for reward in rewards]
    assert advantages(config(), one_token_each(rewards)) == pytest.approx(wanted, abs=1e-6)


def test_groups_have_their_own_baselines_and_a_group_of_one_teaches_nothing():
    batch = one_token_each([1, 0, 5, 0, 3], groups=[0, 0, 1, 2, 2])
    assert advantages(config(), batch) == pytest.approx([1, -1, 0, -3, 3])


def test_normalising_divides_by_the_deviation_over_the_batch():
    """Advantages 1, -1, -3, 3 have the standard deviation sqrt(20 / 3) = 2.581989."""
    batch = one_token_each([1, 0, 0, 3], groups=[0, 0, 1, 1])
    scale = 2.581989 + 1e-4
    wanted = [1 / scale, -1 / scale, -3 / scale, 3 / scale]
    assert advantages(config(normalise=True), batch) == pytest.approx(wanted, abs=1e-6)


def test_kl_in_the_reward_is_the_sum_over_the_completion():
    batch = completions(3, 3, rewards=[1, 1])
    batch = batch.replace(
        old_logprobs=on_actions(batch, [-1, -2, -3, -1, -1, -1.0]),
        ref_logprobs=on_actions(batch, [-2, -2, -2, -1, -2, -3.0]),
    )  # sums of old - reference: 0 and 3, so rewards of 1 and .7
    assert advantages(config(kl_weight=0.1), batch) == pytest.approx([0.3] * 3 + [-0.3] * 3, abs=1e-6)


def test_small_advantages_leave_the_batch_and_all_of_them_may():
    """The group (1, 1, 1) has advantages 0; (.02, 0) has .02 and -.02; (1, 0) has 1 and -1."""
    batch = one_token_each([1, 1, 1, 0.02, 0, 1, 0], groups=[0, 0, 0, 1, 1, 2, 2])
    assert estimate(config(min_advantage=0.01), batch).group.tolist() == [1, 1, 2, 2]
    assert estimate(config(min_advantage=0.05), batch).group.tolist() == [2, 2]
    nothing = estimate(config(min_advantage=5.0), batch)
    assert (nothing.num_sequences, nothing.num_tokens, nothing.num_actions) == (0, 0, 0)


@pytest.mark.parametrize("unit", ["sequence", "token"])
@pytest.mark.parametrize("reward", [0.0, 0.1, -3.3])
def test_without_spread_the_gradient_is_exactly_zero(unit, reward):
    settings = config(unit=unit, normalise=True)
    batch = estimate(settings, completions(2, 1, 3, rewards=[reward] * 3))
    assert loss_and_gradient(ALGORITHM, settings, batch, [-1.0] * 6)[1] == [0.0] * 6


# --- what it promises in expectation -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("settings", [{}, {"surrogate": "reinforce"}, LOOP], ids=["clip", "reinforce", "loop"])
def test_over_all_groups_the_gradient_is_the_true_one_and_that_of_the_group_mean_is_too_small(size, settings):
    bandit = Bandit(size=size)
    true = bandit.ascent(THETA)
    got = -bandit.gradient(ALGORITHM, config(**settings), THETA)
    torch.testing.assert_close(got, true, rtol=1e-9, atol=1e-12)
    centred = -bandit.gradient(grpo.ALGORITHM, grpo.Config(type="grpo", scale="none"), THETA)
    torch.testing.assert_close(centred, true * (size - 1) / size, rtol=1e-9, atol=1e-12)


def test_with_kl_in_the_reward_the_gradient_is_that_of_the_regularised_objective():
    got = -Bandit().gradient(ALGORITHM, config(kl_weight=0.5), THETA)
    torch.testing.assert_close(got, Bandit().ascent(THETA, kl_weight=0.5), rtol=1e-9, atol=1e-12)


def test_it_converges_to_the_known_optimum_of_the_bandit_with_kl():
    policy = Bandit().train(ALGORITHM, config(kl_weight=0.5), steps=300, lr=0.5)
    assert (policy - OPTIMUM).abs().sum() / 2 < 1e-4


# --- losses ------------------------------------------------------------------------------------------------------


def ready(lengths: tuple[int, ...], values: list[float], old: list[float]) -> Batch:
    batch = completions(*lengths)
    column = on_actions(batch, old)
    return batch.replace(advantages=batch.spread(torch.tensor(values)), old_logprobs=column, sampler_logprobs=column)


def test_the_ratio_of_a_completion_is_the_product_of_its_tokens_ratios():
    """Log-ratios (.1, .05) and (-.1): ratios e^.15 = 1.161834 and .904837, both kept; advantages 2 and -1."""
    batch = ready((2, 1), [2.0, -1.0], [-1.0, -1.0, -1.0])
    value, gradient, _ = loss_and_gradient(ALGORITHM, config(), batch, [-0.9, -0.95, -1.1])
    assert value == pytest.approx((-2 * 1.161834 + 0.904837) / 2, abs=1e-6)
    assert gradient == pytest.approx([-1.161834, -1.161834, 0.904837 / 2], abs=1e-6)


def test_a_completion_beyond_the_clip_loses_the_gradient_of_all_its_tokens():
    batch = ready((2,), [1.0], [-1.0, -1.0])
    value, gradient, loss = loss_and_gradient(ALGORITHM, config(), batch, [-0.9, -0.8])  # e^.3 = 1.35
    assert (value, gradient) == (pytest.approx(-1.2), [0, 0])
    assert loss.metrics["policy/clip_frac"].value == 1.0
    assert loss.metrics["policy/ratio_max"].value == pytest.approx(math.exp(0.3), rel=1e-6)


def test_loop_clips_tokens_symmetrically_in_the_log_and_averages_over_each_completion():
    """clip .1: ratios between 1/1.1 = .909091 and 1.1. Tokens at .905 and 1.099 with advantages -1 and 1."""
    batch = ready((1, 3), [-1.0, 1.0], [-1.0] * 4)
    logs = [math.log(0.905), math.log(1.099), 0.0, math.log(1.2)]
    value, gradient, _ = loss_and_gradient(ALGORITHM, config(**LOOP), batch, [-1 + log for log in logs])
    assert value == pytest.approx((0.909091 - (1.099 + 1 + 1.1) / 3) / 2, abs=1e-6)
    assert gradient == pytest.approx([0, -1.099 / 6, -1 / 6, 0], abs=1e-6)
    additive = loss_and_gradient(ALGORITHM, config(unit="token", clip=0.1), batch, [-1 + log for log in logs])
    assert additive[1][0] == pytest.approx(0.905 / 2, abs=1e-6)  # 1 - .1 = .9 has not been reached


def test_reinforce_pulls_with_the_advantage_however_far_the_policy_has_moved():
    batch = ready((2, 1), [2.0, -1.0], [-1.0, -1.0, -1.0])
    value, gradient, _ = loss_and_gradient(ALGORITHM, config(surrogate="reinforce"), batch, [-0.1, -3.0, -2.0])
    assert value == pytest.approx((2 * 3.1 - 2.0) / 2, abs=1e-6)
    assert gradient == [-1.0, -1.0, 0.5]


@pytest.mark.parametrize("settings", [{}, {"unit": "token"}, LOOP, {"surrogate": "reinforce"}])
def test_with_one_update_per_batch_every_setting_has_the_gradient_of_reinforce(settings):
    batch = ready((1, 1), [1.5, -0.5], [-1.0, -1.0]).replace(old_logprobs=None)
    assert loss_and_gradient(ALGORITHM, config(**settings), batch, [-1.0, -1.0])[1] == pytest.approx([-0.75, 0.25])


@pytest.mark.parametrize("settings", [{}, LOOP, {"surrogate": "reinforce"}])
def test_the_gradient_agrees_with_finite_differences(settings):
    batch = in_float64(ready((2, 3, 1), [1.5, -0.5, 0.7], [-1.0, -2.0, -0.5, -1.5, -0.3, -0.8]))
    logprobs = torch.tensor([-1.05, -1.98, -0.44, -1.58, -0.33, -0.83])
    gradient, differences = finite_differences(ALGORITHM, config(**settings), batch, logprobs)
    assert gradient == pytest.approx(differences, rel=1e-6, abs=1e-9)


def test_a_completion_without_action_tokens_enters_neither_sum_nor_count():
    batch = ready((2, 1), [2.0, -1.0], [-1.0, -1.0, -1.0])
    mask = batch.action_mask & (batch.segment != 1)
    columns = {n: batch.require(n) * mask for n in ("old_logprobs", "sampler_logprobs", "advantages")}
    fewer = batch.replace(action_mask=mask, **columns)
    for settings in (config(), config(**LOOP)):
        value, _, loss = loss_and_gradient(ALGORITHM, settings, fewer, [-1.0, -1.0])
        assert loss.count == 1
        assert value == pytest.approx(-2.0)


def test_the_gap_between_sampler_and_trainer_weighs_whole_completions_and_is_capped():
    """old - sampler sums to ln 1.5 and ln 3: weights 1.5 and 2 (the cap)."""
    batch = ready((2, 1), [1.0, -1.0], [-1.0, -1.0, -1.0])
    batch = batch.replace(
        sampler_logprobs=on_actions(batch, [-1 - math.log(1.5), -1.0, -1 - math.log(3)]),
    )
    gradient = loss_and_gradient(ALGORITHM, config(), batch, [-1.0] * 3)[1]
    assert gradient == pytest.approx([-0.75, -0.75, 1.0], abs=1e-6)


def test_the_entropy_bonus_pulls_on_each_tokens_entropy_by_its_weight_in_the_loss():
    batch = ready((2, 1), [2.0, -1.0], [-1.0, -1.0, -1.0])
    entropy = on_actions(batch, [1.0, 2.0, 3.0]).requires_grad_()
    for settings, weights in (({}, [0.5, 0.5, 0.5]), ({"unit": "token"}, [0.25, 0.25, 0.5])):
        outputs = Outputs(logprobs=on_actions(batch, [-1.0] * 3), entropy=entropy)
        loss = ALGORITHM.losses["policy"](config(entropy_weight=0.1, **settings), outputs, batch)
        gradient = torch.autograd.grad(loss.total / loss.count, entropy)[0][batch.action_mask]
        assert gradient.tolist() == pytest.approx([-0.1 * weight for weight in weights])


# --- TRL ---------------------------------------------------------------------------------------------------------


def test_loss_and_gradient_are_those_of_trl():
    """RLOOTrainer._compute_loss with a stand-in for self, on completions of different lengths, some ratios clipped."""
    trainer = trl_module("trl.trainer.rloo_trainer")
    lengths, values = (4, 2, 5, 1), [1.2, -0.4, 0.3, -1.1]
    generator = torch.Generator().manual_seed(3)
    old = -3 * torch.rand(12, generator=generator)
    new = old + 0.25 * torch.randn(12, generator=generator)
    batch = ready(lengths, values, old.tolist())
    got, gradient, _ = loss_and_gradient(ALGORITHM, config(), batch, new)

    live = new.clone().requires_grad_()
    rows = torch.zeros(4, 5)
    mask = torch.arange(5)[None] < torch.tensor(lengths)[:, None]
    stand_in = SimpleNamespace(
        epsilon_low=0.2,
        epsilon_high=0.2,
        aux_loss_enabled=False,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x),
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (
            rows.masked_scatter(mask, live),
            torch.zeros(4, 5),
            None,
        ),
        _metrics={"train": defaultdict(list)},
    )
    inputs = {
        "prompt_ids": torch.zeros(4, 1, dtype=torch.long),
        "prompt_mask": torch.ones(4, 1, dtype=torch.long),
        "completion_ids": torch.zeros(4, 5, dtype=torch.long),
        "completion_mask": mask.float(),
        "old_logps": rows.masked_scatter(mask, old).sum(1),
        "advantages": torch.tensor(values),
    }
    wanted = trainer.RLOOTrainer._compute_loss(stand_in, None, inputs)
    wanted.backward()
    assert live.grad is not None
    assert 0 < int((live.grad == 0).sum()) < 12  # some completions are clipped, not all
    assert got == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert gradient == pytest.approx(live.grad.tolist(), rel=1e-5, abs=1e-7)


# --- recipe ------------------------------------------------------------------------------------------------------


def stage(group: int) -> Stage:
    return Stage.model_validate(
        {"data": {"source": "generator:addition"}, "algorithm": {}, "optimizer": Optimizer(lr=1e-3)}
        | {"train": Train(steps=1), "rollouts": Rollouts(group=group)}
    )


def test_a_group_of_one_is_refused_with_the_cure():
    assert ALGORITHM.requires(config(), stage(2)) == []
    assert ALGORITHM.requires(config(), stage(1))[0].endswith("set rollouts.group to at least 2")


def test_missing_log_probs_are_named():
    with pytest.raises(BatchError, match="no old_logprobs"):
        estimate(config(kl_weight=0.1), one_token_each([1, 0]))


def test_the_objective_is_explained_in_words_that_name_every_choice():
    text = ALGORITHM.explain(config(**LOOP, min_advantage=0.01))
    assert "ratios of a token held in 0.909 to 1.1" in text
    assert "only |A| >= 0.01" in text
    assert "weight 0.05" in ALGORITHM.explain(config(kl_weight=0.05))
