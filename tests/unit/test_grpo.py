"""grpo: advantages and losses by hand, its variants against one another, and its bandit with a known optimum."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.algorithms.rollouts.grpo import ALGORITHM, Config, PolicyLoss, estimate, policy_loss
from alignkit.errors import BatchError
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.recipe.schema import Optimizer, Rollouts, Stage, Train
from alignkit.train.step import Step
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.needs import Needs
from alignkit.types.outputs import Loss, Outputs
from tests.tiny import Recorder, causal_lm, random_batch


def config(*, scale: Any = "group", **loss: Any) -> Config:
    return Config(type="grpo", scale=scale, loss=PolicyLoss(**loss))


def one_token_each(rewards: list[float], *, groups: list[int] | None = None) -> Batch:
    groups = groups or [0] * len(rewards)
    items = [
        Item(prompt_ids=[1], completion_ids=[2], sampler_logprobs=[-1.0], reward=reward, group=group, member=i)
        for i, (reward, group) in enumerate(zip(rewards, groups, strict=True))
    ]
    return pack(items)


def on_actions(batch: Batch, values: list[float]) -> Tensor:
    column = torch.zeros(batch.num_tokens)
    column[batch.action_mask] = torch.tensor(values, dtype=torch.float32)
    return column


def advantages(settings: Config, batch: Batch) -> list[float]:
    return estimate(settings, batch).require("advantages")[batch.action_mask].tolist()


def loss_and_gradient(settings: Config, batch: Batch, logprobs: list[float]) -> tuple[float, list[float], Loss]:
    """(sum / count, its gradient on each action token's log-prob, the Loss)."""
    given = on_actions(batch, logprobs).requires_grad_()
    loss = policy_loss(settings, Outputs(logprobs=given, entropy=torch.zeros(batch.num_tokens)), batch)
    (loss.total / loss.count).backward()
    assert given.grad is not None
    return float(loss.total.detach()) / loss.count, given.grad[batch.action_mask].tolist(), loss


# --- advantages --------------------------------------------------------------------------------------------------


def test_each_scale_divides_the_centred_reward_by_its_own_deviation():
    """Groups (1, 0) and (0, 0, 3): means .5 and 1; deviations .707107 and 1.732051; of all five 1.303840."""
    batch = one_token_each([1, 0, 0, 0, 3], groups=[0, 0, 1, 1, 1])
    centred = [0.5, -0.5, -1, -1, 2]
    assert advantages(config(scale="none"), batch) == pytest.approx(centred)
    by_group = [c / (s + 1e-4) for c, s in zip(centred, [0.707107] * 2 + [1.732051] * 3, strict=True)]
    assert advantages(config(scale="group"), batch) == pytest.approx(by_group, abs=1e-5)
    assert advantages(config(scale="batch"), batch) == pytest.approx([c / 1.303940 for c in centred], abs=1e-5)


def test_an_advantage_is_written_on_every_action_token_of_its_sequence_and_nowhere_else():
    items = [
        Item(prompt_ids=[1, 1], completion_ids=[2, 2, 2], action=[True, False, True], reward=1.0),
        Item(prompt_ids=[1, 1], completion_ids=[2], member=1),
    ]
    got = estimate(config(scale="none"), pack(items)).require("advantages")
    assert got.tolist() == [0, 0, 0.5, 0, 0.5, -0.5]


def test_a_reward_that_is_scaled_or_shifted_gives_the_same_advantages():
    batch = random_batch()
    wanted = advantages(config(), batch)
    got = advantages(config(), batch.replace(reward=100 * batch.reward + 7))
    assert got == pytest.approx(wanted, abs=2e-3)  # up to the 1e-4 beside the deviation


def test_kl_in_the_reward_vanishes_at_the_known_optimum():
    """Three arms, rewards (1, 0, .5), reference (.2, .5, .3), weight .5: at pi* = (.529056, .179, .291944) the reward
    less the KL term is J* = .513611 for every arm, so nothing is left to learn; away from it there is."""
    optimum, reference = torch.tensor([0.529056, 0.179, 0.291944]), torch.tensor([0.2, 0.5, 0.3])
    batch = one_token_each([1, 0, 0.5])
    batch = batch.replace(
        old_logprobs=on_actions(batch, optimum.log().tolist()), ref_logprobs=on_actions(batch, reference.log().tolist())
    )
    settings = config(kl="reward", kl_weight=0.5, scale="none")
    assert advantages(settings, batch) == pytest.approx([0, 0, 0], abs=3e-6)
    elsewhere = batch.replace(old_logprobs=batch.ref_logprobs)
    assert advantages(settings, elsewhere) == pytest.approx([0.5, -0.5, 0], abs=1e-6)


def test_kl_in_the_reward_is_the_sum_over_the_sequence_of_trainer_and_reference_log_probs():
    items = [Item(prompt_ids=[1], completion_ids=[2, 2, 2], member=m, reward=1.0) for m in (0, 1)]
    batch = pack(items)
    batch = batch.replace(
        old_logprobs=on_actions(batch, [-1, -2, -3, -1, -1, -1]),
        ref_logprobs=on_actions(batch, [-2, -2, -2, -1, -2, -3]),
    )  # sums of old - reference: 0 and 3
    got = advantages(config(kl="reward", kl_weight=0.1, scale="none"), batch)
    assert got == pytest.approx([0.15] * 3 + [-0.15] * 3, abs=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.7, -3.3])
def test_groups_without_spread_give_a_gradient_of_exactly_zero(scale, reward):
    """Not merely a small one: rounding in the mean would be divided by a deviation of nearly zero."""
    model, batch = causal_lm(), random_batch([(3, [2, 4, 1]), (2, [3, 3, 3, 1, 2])])
    batch = estimate(config(scale=scale), batch.replace(reward=torch.full((8,), reward)))
    recorder = Recorder(model)
    step = Step(
        algorithm=ALGORITHM,
        config=config(scale=scale, correction="none"),
        trainer=recorder,
        forward=Forward(model=model, dtype=torch.float32),
        group=Group(),
        temperature=1.0,
        max_tokens=12,
    )
    step.update(batch, range(8), lr=1.0)
    assert recorder.loss == 0
    assert not recorder.gradient.any()


def test_a_batch_of_a_single_sequence_has_an_advantage_of_zero_at_every_scale():
    for scale in ("group", "batch", "none"):
        assert advantages(config(scale=scale), one_token_each([0.7])) == [0.0]


# --- losses ------------------------------------------------------------------------------------------------------


def ready(lengths: tuple[int, ...], values: list[float], **columns: list[float]) -> Batch:
    """Sequences of one group with given advantages and columns; the sampler agrees with the old log-probs."""
    batch = pack([Item(prompt_ids=[1], completion_ids=[2] * n, member=i) for i, n in enumerate(lengths)])
    spread = batch.spread(torch.tensor(values))
    columns.setdefault("sampler_logprobs", columns["old_logprobs"])
    return batch.replace(advantages=spread, **{name: on_actions(batch, column) for name, column in columns.items()})


def test_the_clipped_loss_of_three_tokens_by_hand():
    """Ratios e^.3 = 1.349859 (A 1, clipped to 1.2), e^-.3 = .740818 (A 1, kept) and 1 (A -2)."""
    batch = ready((2, 1), [1.0, -2.0], old_logprobs=[-1.0, -1.0, -1.0])
    value, gradient, loss = loss_and_gradient(config(), batch, [-0.7, -1.3, -1.0])
    assert value == pytest.approx((-1.2 - 0.740818 + 2) / 3, abs=1e-6)
    assert gradient == pytest.approx([0, -0.740818 / 3, 2 / 3], abs=1e-6)
    assert loss.metrics["policy/clip_frac"].value == pytest.approx(2 / 3)
    assert loss.metrics["policy/ratio_max"].value == pytest.approx(1.349859, abs=1e-6)


def test_the_published_aggregates_weigh_tokens_as_their_papers_say():
    """Lengths 1 and 3, advantages 1 and -1, ratio 1: the gradient on each token is -A times its weight."""
    batch = ready((1, 3), [1.0, -1.0], old_logprobs=[-1.0] * 4)
    for mode, weights in {
        "token_mean": [1 / 4] * 4,  # DAPO
        "sequence_mean_token_mean": [1 / 2] + [1 / 6] * 3,  # the paper's own
        "sequence_mean_token_sum": [1 / 2] * 4,
        "sequence_mean_constant": [1 / 20] * 4,  # Dr.GRPO with a longest completion of 10
    }.items():
        _, gradient, _ = loss_and_gradient(config(aggregate=mode, aggregate_constant=10), batch, [-1.0] * 4)
        wanted = [-w * a for w, a in zip(weights, [1, -1, -1, -1], strict=True)]
        assert gradient == pytest.approx(wanted), mode


def test_without_old_log_probs_the_ratio_is_one_and_the_gradient_that_of_reinforce():
    batch = ready((2, 2), [1.5, -0.5], old_logprobs=[-9.0] * 4, sampler_logprobs=[-1.0] * 4).replace(old_logprobs=None)
    for settings in (config(), config(surrogate="cispo"), config(ratio="sequence"), config(clip_dual=3.0)):
        _, gradient, loss = loss_and_gradient(settings, batch, [-1.0] * 4)
        assert gradient == pytest.approx([-1.5 / 4] * 2 + [0.5 / 4] * 2, abs=1e-7)
        assert loss.metrics["policy/ratio_max"].value == 1.0
        assert loss.metrics["policy/clip_frac"].value == 0.0


def test_gspo_on_sequences_of_one_token_is_the_clipped_token_loss():
    batch = ready((1, 1, 1), [1.0, -1.0, 0.5], old_logprobs=[-1.0, -2.0, -0.5])
    logprobs = [-0.6, -2.4, -0.4]
    token, sequence = (loss_and_gradient(config(ratio=r), batch, logprobs) for r in ("token", "sequence"))
    assert sequence[0] == pytest.approx(token[0], rel=1e-6)
    assert sequence[1] == pytest.approx(token[1], rel=1e-6)


def test_gspo_clips_whole_sequences_that_token_ratios_would_clip_in_part():
    """Log-ratios (.5, 0): token ratios 1.65 (clipped) and 1; the sequence's e^.25 = 1.284 is clipped in both."""
    batch = ready((2,), [1.0], old_logprobs=[-1.0, -1.0])
    assert loss_and_gradient(config(), batch, [-0.5, -1.0])[1] == pytest.approx([0, -0.5])
    assert loss_and_gradient(config(ratio="sequence"), batch, [-0.5, -1.0])[1] == [0, 0]


def test_cispo_keeps_the_gradient_of_a_token_that_clipping_silences():
    batch = ready((1,), [1.0], old_logprobs=[-2.0])
    assert loss_and_gradient(config(), batch, [-1.0])[1] == [0]
    assert loss_and_gradient(config(surrogate="cispo", clip_high=4.0), batch, [-1.0])[1] == pytest.approx([-math.e])
    assert loss_and_gradient(config(surrogate="cispo", clip_high=0.5), batch, [-1.0])[1] == pytest.approx([-1.5])


def test_the_dual_clip_bounds_the_loss_of_a_bad_token_that_became_likely():
    batch = ready((1,), [-1.0], old_logprobs=[-3.0])
    assert loss_and_gradient(config(), batch, [-1.0])[0] == pytest.approx(math.exp(2), rel=1e-6)
    value, gradient, _ = loss_and_gradient(config(clip_dual=3.0), batch, [-1.0])
    assert (value, gradient) == (3.0, [0.0])


def test_kl_in_the_loss_is_weighed_by_its_coefficient_and_by_nothing_else():
    """The sampler's correction (here 0 for every token) belongs to the surrogate: the KL keeps its full weight."""
    batch = ready((2,), [1.0], old_logprobs=[-1.0, -1.0], sampler_logprobs=[-9.0, -9.0], ref_logprobs=[-1.5, -0.5])
    for estimator, terms, slopes in (
        ("k3", [math.exp(-0.5) - 1 + 0.5, math.exp(0.5) - 1 - 0.5], [1 - math.exp(-0.5), 1 - math.exp(0.5)]),
        ("k2", [0.125, 0.125], [0.5, -0.5]),
    ):
        settings = config(kl="loss", kl_weight=0.2, kl_estimator=estimator, correction="mask")
        value, gradient, loss = loss_and_gradient(settings, batch, [-1.0, -1.0])
        assert value == pytest.approx(0.2 * sum(terms) / 2, abs=1e-6)
        assert gradient == pytest.approx([0.2 * slope / 2 for slope in slopes], abs=1e-6)
        assert loss.metrics["policy/kl_reference"].value == pytest.approx(0.0, abs=1e-6)  # (.5 - .5) / 2


def test_the_correction_scales_value_and_gradient_and_is_a_constant():
    """Old less sampler log-probs: ln (.5, 1, 3, 8)."""
    sampler = [-1 - math.log(w) for w in (0.5, 1, 3, 8)]
    batch = ready((4,), [1.0], old_logprobs=[-1.0] * 4, sampler_logprobs=sampler)
    for settings, weights in (
        (config(correction="none"), [1, 1, 1, 1]),
        (config(correction="truncate", correction_cap=2.0), [0.5, 1, 2, 2]),
        (config(correction="mask", correction_cap=5.0, correction_floor=0.49), [0.5, 1, 3, 0]),
    ):
        value, gradient, _ = loss_and_gradient(settings, batch, [-1.0] * 4)
        assert value == pytest.approx(-sum(weights) / 4, abs=1e-6)
        assert gradient == pytest.approx([-w / 4 for w in weights], abs=1e-6)


def test_where_sampler_and_trainer_agree_every_correction_gives_the_same_bits():
    batch = ready((3, 2), [1.0, -0.3], old_logprobs=[-1.1, -0.2, -3.3, -0.7, -2.9])
    results = [
        loss_and_gradient(config(correction=how), batch, [-1.0, -0.25, -3.0, -0.9, -2.8])
        for how in ("none", "truncate", "mask")
    ]
    assert results[0][:2] == results[1][:2] == results[2][:2]


def test_a_sampler_gap_is_reported_as_the_mean_of_sampler_less_trainer():
    batch = ready((2,), [1.0], old_logprobs=[-1.0, -2.0], sampler_logprobs=[-0.8, -2.1])
    assert loss_and_gradient(config(), batch, [-1.0, -2.0])[2].metrics["policy/kl_sampler"].value == pytest.approx(0.05)


def test_without_the_samplers_log_probs_the_loss_says_what_is_missing():
    batch = ready((1,), [1.0], old_logprobs=[-1.0]).replace(sampler_logprobs=None)
    with pytest.raises(BatchError, match="the batch has no sampler_logprobs"):
        loss_and_gradient(config(), batch, [-1.0])


def test_the_entropy_bonus_pulls_on_each_tokens_entropy_by_its_weight_in_the_loss():
    batch = ready((2, 1), [2.0, -1.0], old_logprobs=[-1.0, -1.0, -1.0])
    entropy = on_actions(batch, [1.0, 2.0, 3.0]).requires_grad_()
    for settings, weights in (({}, [1 / 3] * 3), ({"correction": "mask", "correction_floor": 1.5}, [1 / 3] * 3)):
        outputs = Outputs(logprobs=on_actions(batch, [-1.0] * 3), entropy=entropy)
        loss = ALGORITHM.losses["policy"](config(entropy_weight=0.1, **settings), outputs, batch)
        gradient = torch.autograd.grad(loss.total / loss.count, entropy)[0][batch.action_mask]
        assert gradient.tolist() == pytest.approx([-0.1 * weight for weight in weights])


# --- recipe ------------------------------------------------------------------------------------------------------


def stage(group: int) -> Stage:
    return Stage.model_validate(
        {"data": {"source": "generator:addition"}, "algorithm": {}, "optimizer": Optimizer(lr=1e-3)}
        | {"train": Train(steps=1), "rollouts": Rollouts(group=group)}
    )


def test_a_group_of_one_and_half_a_kl_are_refused_with_the_cure():
    assert ALGORITHM.requires(config(), stage(2)) == []
    assert ALGORITHM.requires(config(), stage(1)) == [
        "grpo compares rollouts of one prompt: set rollouts.group to at least 2"
    ]
    for half in (config(kl="loss"), config(kl_weight=0.1)):
        assert ALGORITHM.requires(half, stage(8)) == ["kl and kl_weight disagree: set both, or neither"]


def test_a_reference_is_kept_only_when_a_kl_is_asked_for():
    without, needs = ALGORITHM.needs(config()), ALGORITHM.needs(config(kl="loss", kl_weight=0.1))
    assert without == Needs(columns=("sampler_logprobs",))
    assert without.models == ()
    assert needs == Needs(columns=("sampler_logprobs", "old_logprobs", "ref_logprobs"))
    assert needs.models == ("reference",)


def test_the_objective_is_explained_in_words_that_name_every_choice():
    text = ALGORITHM.explain(config(scale="none", kl="loss", kl_weight=0.04, aggregate="sequence_mean_constant"))
    for part in ("scale none", "sequence_mean_constant", "0.04 x KL to the reference in the loss", "truncate"):
        assert part in text
