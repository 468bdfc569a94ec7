"""Preference losses: identities, exact enumeration on small tables, finite differences, and pairs that are none."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from alignkit.algorithms import sft
from alignkit.algorithms.preferences import cpl, kto, orpo, rebel_pairs
from alignkit.algorithms.preferences.dpo import Config, policy_loss, requires
from alignkit.errors import BatchError
from alignkit.ops import preference
from alignkit.ops.preference import Divergence, Link, divergence_score, pair_loss
from alignkit.recipe.lookup.find import find, list_content, load
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from tests.tiny import noise, random_batch

LINKS = get_args(Link)
OPTIONS: dict[str, Any] = {"simpo": {"nll_weight": 0.3, "label_smoothing": 0.1}, "rebel_pairs": {"nll_weight": 0.3}}
NEEDS_SMOOTHING = ("robust", "exo")
BANDIT = {"reward": (1.0, 0.0, 0.5), "reference": (0.2, 0.5, 0.3), "beta": 0.5}  # the optimum is known in closed form


def config(**settings) -> Config:
    noisy = settings.get("loss_type") in NEEDS_SMOOTHING
    return Config(type="dpo", **({"label_smoothing": 0.1} if noisy else {}), **settings)


def pairs(seed: int = 0, dtype=torch.float64) -> tuple[Batch, Tensor]:
    """Three pairs with holes in their masks, and log-probs."""
    batch = random_batch([(3, (4, 6)), (2, (1, 5)), (4, (7, 2))], holes=True, seed=seed)
    blank = torch.zeros(batch.num_tokens, dtype=dtype)
    logprobs = torch.where(batch.action_mask, blank - 1.5 + noise(batch, 0.5, seed=1), blank)
    return batch.replace(side=1 - 2 * batch.member, ref_logprobs=logprobs + noise(batch, 0.4, seed=2)), logprobs


def total(settings: Config, batch: Batch, logprobs: Tensor) -> Tensor:
    return policy_loss(settings, Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs)), batch).total


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("divergence", get_args(Divergence))
def test_gradients_agree_with_finite_differences(link, divergence):
    batch, logprobs = pairs()
    settings = config(loss_type=link, divergence=divergence, beta=0.7, nll_weight=0.3)
    live = logprobs.clone().requires_grad_()
    total(settings, batch, live).backward()
    step = 1e-5
    for index in batch.action_mask.nonzero().squeeze(-1).tolist():
        shift = torch.zeros_like(logprobs).index_fill(0, torch.tensor([index]), step)
        slope = (total(settings, batch, logprobs + shift) - total(settings, batch, logprobs - shift)) / (2 * step)
        assert live.grad[index].item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["simpo", "orpo", "cpl", "kto", "rebel_pairs"])
def test_gradients_of_the_other_methods_agree_with_finite_differences(name):
    batch, logprobs = pairs()
    algorithm: Any = load(find("algorithms", name))
    settings = algorithm.config(type=name, **OPTIONS.get(name, {}))
    batch = algorithm.estimate(settings, batch.replace(old_logprobs=logprobs))

    def loss(said: Tensor) -> Tensor:
        return algorithm.losses["policy"](settings, Outputs(logprobs=said, entropy=said.detach()), batch).total

    live = logprobs.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(live), live)[0]
    for index in batch.action_mask.nonzero().squeeze(-1).tolist():
        shift = torch.zeros_like(logprobs).index_fill(0, torch.tensor([index]), 1e-5)
        slope = (loss(logprobs + shift) - loss(logprobs - shift)) / 2e-5
        assert gradient[index].item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_cpl_with_the_reference_inside_and_no_bias_is_dpo(beta):
    batch, logprobs = pairs()
    results = []
    for loss, settings in (
        (cpl.policy_loss, cpl.Config(type="cpl", scale=beta, bias=1.0, anchor="reference")),
        (policy_loss, config(beta=beta)),
    ):
        live = logprobs.clone().requires_grad_()
        value = loss(settings, Outputs(logprobs=live, entropy=logprobs), batch).total
        results.append((value.item(), torch.autograd.grad(value, live)[0]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1])


def test_the_preference_part_of_ipl_on_logits_is_cpl_without_bias():
    """r_t = logit of the token - V after it, V = logsumexp of the logits, 0 after the end: a pair's prompts cancel."""
    batch = random_batch([(3, (4, 6)), (2, (1, 5))]).replace(side=torch.tensor([1, -1, 1, -1]))
    logits = torch.randn(batch.num_tokens, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask, end = batch.action_mask, batch.last_token()  # row t: the logits of the state after token t
    values = logits.logsumexp(-1)
    chosen = logits[batch.parent].gather(1, (batch.tokens % 7)[:, None]).squeeze(1)
    after = values.index_fill(0, end, 0.0)
    rewards = batch.sum_per_sequence(chosen - after)
    logprobs = torch.where(mask, chosen - values[batch.parent], 0.0)
    settings = cpl.Config(type="cpl", scale=1.0, bias=1.0)
    loss = cpl.policy_loss(settings, Outputs(logprobs=logprobs, entropy=logprobs), batch)
    wanted = preference.logistic(rewards[[0, 2]] - rewards[[1, 3]]).sum()
    assert loss.total.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_orpo_is_supervised_learning_where_the_preference_weighs_nothing():
    batch, logprobs = pairs()
    light = orpo.policy_loss(orpo.Config(type="orpo", weight=1e-9), Outputs(logprobs=logprobs, entropy=logprobs), batch)
    own = sft.Config(type="sft", aggregate="sequence_mean_token_mean")
    chosen = batch.select([0, 2, 4])
    said = logprobs[batch.token_index([0, 2, 4])]
    supervised = sft.policy_loss(own, Outputs(logprobs=said, entropy=said), chosen)
    assert light.total.item() == pytest.approx(supervised.total.item(), rel=1e-7)
    assert (light.count, supervised.count) == (3, 3)


def test_rebel_on_pairs_is_ipo_where_all_rewards_differ_alike():
    """IPO aims at 1 / (2 beta) for every pair, REBEL at eta times the pair's own difference: here 2.5 for both."""
    batch, logprobs = pairs()
    batch = batch.replace(reward=torch.tensor([1.0, 0, 3, 2, 0, -1]))
    own, results = rebel_pairs.Config(type="rebel_pairs", eta=2.5), []
    for loss, settings in ((rebel_pairs.policy_loss, own), (policy_loss, config(loss_type="ipo", beta=0.2))):
        live = logprobs.clone().requires_grad_()
        outputs = Outputs(logprobs=live, entropy=logprobs)
        value = loss(settings, outputs, rebel_pairs.estimate(own, batch)).total
        results.append((value.item(), torch.autograd.grad(value, live)[0]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1])


def judged(gap: float = 0.0) -> tuple[Batch, Tensor]:
    """Three prompts, each with a good or bad answer and one that belongs elsewhere; log-probs near the reference."""
    batch = random_batch([(3, (4, 6)), (2, (1, 5)), (4, (7, 2))])
    logprobs = torch.where(batch.action_mask, -1.5 + noise(batch, 0.5, seed=1), 0.0)
    drift = torch.where(batch.action_mask, gap + noise(batch, 0.3, seed=5), 0.0)
    side = torch.tensor([1, 0, -1, 0, 1, 0])
    return batch.replace(side=side, old_logprobs=logprobs, ref_logprobs=logprobs - drift), logprobs


def test_ktos_point_is_the_mean_over_mismatched_answers_and_never_below_zero():
    for gap in (0.5, -0.5):
        batch, _ = judged(gap)
        mean = batch.sum_per_sequence(batch.require("old_logprobs") - batch.require("ref_logprobs"))[[1, 3, 5]].mean()
        kept = kto.estimate(kto.Config(type="kto"), batch)
        assert kept.side.tolist() == [1, -1, 1]
        assert kept.require("targets")[:, 0].tolist() == pytest.approx([max(0.0, float(mean))] * 3)
        assert (float(mean) > 0) == (gap > 0)
        zero = kto.estimate(kto.Config(type="kto", reference_point="zero"), batch.replace(old_logprobs=None))
        assert not zero.require("targets").any()


def test_ktos_loss_in_parts_is_the_loss_of_the_whole():
    """z comes from the whole global batch, so that micro-batches of one answer give the same sum and gradient."""
    batch, logprobs = judged(0.4)
    settings = kto.Config(type="kto", beta=0.5, desirable_weight=1.3)
    kept = kto.estimate(settings, batch)
    said = logprobs[batch.token_index([0, 2, 4])]
    whole = kto.policy_loss(settings, Outputs(logprobs=said, entropy=said), kept)
    parts = []
    for sequence in range(3):
        own = said[kept.token_index([sequence])]
        parts.append(kto.policy_loss(settings, Outputs(logprobs=own, entropy=own), kept.select([sequence])))
    assert sum(part.total.item() for part in parts) == pytest.approx(whole.total.item(), rel=1e-6)
    assert sum(part.count for part in parts) == whole.count
    alone = kto.estimate(settings, batch.select([0, 1]))  # a point of its own would be another loss
    assert alone.require("targets")[0] != kept.require("targets")[0]


def test_kto_moves_the_policy_the_way_dpo_does():
    """With z = 0 and the policy at the reference, both raise every good token and lower every bad one alike."""
    batch, logprobs = pairs()
    batch = batch.replace(ref_logprobs=logprobs, old_logprobs=logprobs)
    gradients = []
    for loss, settings in ((policy_loss, config(beta=0.2)), (kto.policy_loss, kto.Config(type="kto", beta=0.2))):
        live = logprobs.clone().requires_grad_()
        prepared = kto.estimate(kto.Config(type="kto"), batch)
        gradients.append(
            torch.autograd.grad(loss(settings, Outputs(logprobs=live, entropy=logprobs), prepared).total, live)[0]
        )
    torch.testing.assert_close(gradients[1], gradients[0] / 2)  # sigmoid' is 1/4 where log sigmoid' is 1/2


def test_kto_refuses_a_batch_of_one():
    stage: Any = SimpleNamespace(train=SimpleNamespace(batch=1))
    assert kto.requires(kto.Config(type="kto"), stage) == [
        "a single answer says too little of where gains begin: set train.batch to at least 2"
    ]
    assert not kto.requires(kto.Config(type="kto", reference_point="zero"), stage)


def test_small_beta_turns_dpo_into_a_plain_difference():
    """-log sigmoid(beta h) = log 2 - beta h / 2 + O(beta^2): the limit is sign-weighted likelihood."""
    batch, logprobs = pairs()
    live = logprobs.clone().requires_grad_()
    total(config(beta=1e-6), batch, live).backward()
    sign = torch.where(batch.action_mask, batch.side[batch.segment.clamp(min=0)], 0)
    torch.testing.assert_close(live.grad / 1e-6, -sign.double() / 2, rtol=1e-4, atol=1e-4)


def test_alpha_divergence_has_forward_and_reverse_kl_at_its_ends():
    ratio = torch.linspace(-3, 3, 13, dtype=torch.float64)
    near_one = divergence_score(ratio, "alpha", alpha=1 - 1e-7)
    torch.testing.assert_close(near_one, divergence_score(ratio, "reverse_kl"), rtol=1e-5, atol=1e-5)
    near_zero = divergence_score(ratio, "alpha", alpha=1e-9)
    torch.testing.assert_close(near_zero - 1, divergence_score(ratio, "forward_kl"), rtol=1e-6, atol=1e-6)


def test_a_runaway_log_ratio_stays_finite_under_every_divergence():
    ratio = torch.tensor([-500.0, 500.0], requires_grad=True)
    for divergence in get_args(Divergence):
        score = divergence_score(ratio, divergence)
        assert torch.isfinite(score).all()


def test_robust_dpo_is_unbiased_when_labels_are_flipped():
    """The mean over all 2^3 patterns of flips, each with its chance, is DPO on the true labels."""
    chosen, rejected = torch.tensor([[0.4, -1.0, 2.0], [0.1, 0.9, -0.3]], dtype=torch.float64)
    flip_chance, mean = 0.2, 0.0
    for flips in itertools.product((False, True), repeat=3):
        flipped = torch.tensor(flips)
        sides = torch.where(flipped, rejected, chosen), torch.where(flipped, chosen, rejected)
        chance = flip_chance ** sum(flips) * (1 - flip_chance) ** (3 - sum(flips))
        mean += chance * pair_loss("robust", *sides, beta=0.8, smoothing=flip_chance).mean()
    assert float(mean) == pytest.approx(float(pair_loss("sigmoid", chosen, rejected, beta=0.8).mean()), rel=1e-12)


def _population_gradient(logits: Tensor, loss) -> Tensor:
    """Gradient of the expected loss over pairs drawn from reference x reference, labelled by Bradley-Terry."""
    reward, reference = (torch.tensor(BANDIT[name], dtype=torch.float64) for name in ("reward", "reference"))
    logits = logits.clone().requires_grad_()
    ratio = logits.log_softmax(0) - reference.log()
    expected = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.product(range(3), repeat=2):
        weight = reference[a] * reference[b] * (reward[a] - reward[b]).sigmoid()  # a is the chosen one
        expected = expected + weight * loss(ratio[a : a + 1], ratio[b : b + 1]).sum()
    return torch.autograd.grad(expected, logits)[0]


def test_dpo_has_exactly_zero_gradient_at_the_optimum_of_the_bandit_and_only_there():
    reward, reference = (torch.tensor(BANDIT[name], dtype=torch.float64) for name in ("reward", "reference"))
    beta = BANDIT["beta"]
    optimum = (reference.log() + reward / beta).log_softmax(0)
    torch.testing.assert_close(
        optimum.exp(), torch.tensor([0.529056, 0.179, 0.291944], dtype=torch.float64), rtol=1e-5, atol=1e-6
    )

    def dpo(chosen: Tensor, rejected: Tensor) -> Tensor:
        return pair_loss("sigmoid", chosen, rejected, beta=beta)

    assert _population_gradient(optimum, dpo).abs().max() < 1e-15
    assert _population_gradient(reference.log(), dpo).abs().max() > 1e-2


def test_ipo_is_minimised_by_a_log_ratio_of_the_preference_less_a_half():
    """Two answers, preferred with chance p: h* = (p - 1/2) / beta, where DPO would go to infinity for p = 1."""
    for p, beta in ((0.8, 0.1), (0.3, 0.5), (1.0, 0.2)):
        h = torch.tensor([(p - 0.5) / beta], dtype=torch.float64, requires_grad=True)
        none = torch.zeros(1, dtype=torch.float64)
        loss = p * pair_loss("ipo", h, none, beta=beta) + (1 - p) * pair_loss("ipo", none, h, beta=beta)
        assert torch.autograd.grad(loss.sum(), h)[0].abs() < 1e-12


@pytest.mark.parametrize("link", LINKS)
def test_every_link_raises_the_chosen_answer_over_the_rejected_one(link):
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    pair_loss(link, chosen, rejected, beta=0.5, smoothing=0.1 if link in NEEDS_SMOOTHING else 0.0).sum().backward()
    assert chosen.grad < rejected.grad


def test_a_group_that_is_no_pair_is_refused():
    def batch_of(*sides: int) -> Batch:
        return pack([Item(prompt_ids=[1], completion_ids=[2], member=m, side=side) for m, side in enumerate(sides)])

    for bad in ((1, 1), (1,), (1, -1, -1), (1, -1, 1, -1)):
        with pytest.raises(BatchError, match="one chosen and one rejected answer"):
            preference.sides(batch_of(*bad))
    chosen, rejected = preference.sides(batch_of(0, -1, 0, 1))
    assert (chosen.tolist(), rejected.tolist()) == ([3], [1])


def test_sides_meet_by_their_group_whatever_the_order():
    items = [(2, -1), (0, 1), (1, -1), (2, 1), (0, -1), (1, 1)]
    batch = pack([Item(prompt_ids=[1], completion_ids=[2], group=g, side=s, member=int(s < 0)) for g, s in items])
    chosen, rejected = preference.sides(batch)
    assert [(items[c][0], items[r][0]) for c, r in zip(chosen, rejected, strict=True)] == [(0, 0), (1, 1), (2, 2)]


def test_settings_that_do_not_fit_together_are_refused():
    refused = [
        {"loss_type": "robust"},
        {"loss_type": "exo"},
        {"loss_type": "ipo", "label_smoothing": 0.1},
        {"pool": "mean", "divergence": "forward_kl"},
    ]
    for settings in refused:
        assert len(requires(Config(type="dpo", **settings), None)) == 1
    assert not requires(Config(type="dpo", loss_type="ipo", pool="mean"), None)


JUDGES = [found.name for found in list_content("algorithms") if (a := load(found)).judge and "policy" in a.losses]


@pytest.mark.parametrize("name", JUDGES)
def test_held_out_pairs_are_judged_by_the_reward_that_the_loss_reports(name):
    algorithm = load(find("algorithms", name))
    settings = algorithm.config(type=name)
    batch, logprobs = pairs()
    batch = batch.replace(reward=1.0 - batch.member)
    outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs), ref_kl=torch.zeros_like(logprobs))
    value = algorithm.judge(settings, outputs, batch).value
    loss = algorithm.losses["policy"](settings, outputs, algorithm.estimate(settings, batch))
    assert loss.metrics["pairs/reward_chosen"].value == pytest.approx(value[batch.side == 1].mean().item(), rel=1e-6)
    margin = (value[batch.side == 1] - value[batch.side == -1]).mean().item()
    assert margin != 0
    assert loss.metrics["pairs/margin"].value == pytest.approx(margin, rel=1e-6)


def test_every_method_on_pairs_with_one_kind_of_reward_can_be_evaluated_on_held_out_pairs():
    assert set(JUDGES) == {"cpl", "dpo", "orpo", "rebel_pairs", "simpo", "tdpo"}
