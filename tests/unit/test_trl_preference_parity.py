"""Our losses on paired preferences and unpaired feedback against TRL's own code, with a stand-in for self.

The model that TRL calls returns given log-probs; all that follows is TRL's. docs/algorithms.md has the table of
differences.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.algorithms.preferences import dpo, kto, orpo, simpo
from alignkit.types.batch import Batch
from alignkit.types.outputs import Outputs
from tests.tiny import noise, random_batch
from tests.trls import trl_module

LONGEST = 9


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Four pairs of answers of 1 to 9 tokens, some tokens not to be learnt, near a reference."""
    batch = random_batch([(3, [4, 9]), (2, [7, 1]), (4, [2, 5]), (1, [6, 6])], holes=True, seed=3)
    logprobs = torch.where(batch.action_mask, -torch.rand(batch.num_tokens) * 2 - 0.1, 0.0)
    return batch.replace(
        side=1 - 2 * batch.member, old_logprobs=logprobs, ref_logprobs=logprobs + noise(batch, 0.5, seed=2)
    )


@pytest.fixture(scope="module")
def logprobs(batch) -> Tensor:
    return batch.require("old_logprobs") + noise(batch, 0.3, seed=5)


def padded(batch: Batch, column: Tensor, sequences: list[int]) -> Tensor:
    """(sequence, 1 + LONGEST): what belongs to no answer in the first place, then each answer's own tokens, padded."""
    rows = torch.zeros(len(sequences), 1 + LONGEST, dtype=column.dtype)
    for place, sequence in enumerate(sequences):
        own = column[batch.segment == sequence]
        rows[place, 1 : 1 + len(own)] = own
    return rows


def model(batch: Batch, logprobs: Tensor, sequences: list[int]):
    """What TRL calls: it says the given log-probs, 0 where no action is, without the first place."""
    rows = padded(batch, torch.where(batch.action_mask, logprobs, 0.0), sequences)[:, 1:]
    said = SimpleNamespace(log_probs=rows, entropy=rows.detach(), mean_logits=rows.detach(), is_top1=rows.detach() > 0)
    return lambda **inputs: said


def stand_in(**settings: Any) -> SimpleNamespace:
    def same(value: Any, *args: Any, **kwargs: Any) -> Any:
        return value

    options = {"beta": 0.1, "label_smoothing": 0.0, "loss_weights": [1.0], "f_divergence_type": "reverse_kl"}
    return SimpleNamespace(
        **(options | settings),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )


def inputs(batch: Batch, sequences: list[int]) -> dict[str, Tensor]:
    mask = padded(batch, batch.action_mask.long(), sequences)
    return {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}


def theirs(batch: Batch, logprobs: Tensor, **settings: Any) -> tuple[float, Tensor]:
    """(TRL's DPO loss, its gradient on the packed log-probs)."""
    live = logprobs.clone().requires_grad_()
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    reference = batch.sum_per_sequence(batch.require("ref_logprobs"))
    given = inputs(batch, order) | {"ref_chosen_logps": reference[0::2], "ref_rejected_logps": reference[1::2]}
    own = stand_in(**(settings | {"loss_types": [settings.pop("loss_type", "sigmoid")]}))
    loss = trl_module("trl.trainer.dpo_trainer").DPOTrainer._compute_loss(own, model(batch, live, order), given, False)
    return float(loss.detach()), torch.autograd.grad(loss, live)[0]


def ours(module: Any, batch: Batch, logprobs: Tensor, **settings: Any) -> tuple[float, Tensor]:
    live = logprobs.clone().requires_grad_()
    config = module.Config(type="x", **settings)
    loss = module.policy_loss(config, Outputs(logprobs=live, entropy=logprobs), module.estimate(config, batch))
    return float(loss.total.detach()) / loss.count, torch.autograd.grad(loss.total / loss.count, live)[0]


SAME = {
    "sigmoid": ({}, {}),
    "robust": ({"loss_type": "robust", "label_smoothing": 0.1}, {"loss_type": "robust", "label_smoothing": 0.1}),
    "hinge": ({"loss_type": "hinge"}, {"loss_type": "hinge"}),
    "ipo": ({"loss_type": "ipo"}, {"loss_type": "ipo", "pool": "mean"}),
    "exo_pair": ({"loss_type": "exo_pair", "label_smoothing": 1e-3}, {"loss_type": "exo", "label_smoothing": 1e-3}),
    "nca_pair": ({"loss_type": "nca_pair"}, {"loss_type": "nca"}),
    "apo_zero": ({"loss_type": "apo_zero"}, {"loss_type": "apo_zero"}),
    "apo_down": ({"loss_type": "apo_down"}, {"loss_type": "apo_down"}),
    "sigmoid_norm": ({"loss_type": "sigmoid_norm"}, {"pool": "mean"}),
    "forward_kl": ({"f_divergence_type": "forward_kl"}, {"divergence": "forward_kl"}),
    "js_divergence": ({"f_divergence_type": "js_divergence"}, {"divergence": "jensen_shannon"}),
    "alpha_divergence": (
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
        {"divergence": "alpha", "alpha": 0.3},
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_loss_and_gradient_of_pairs_are_those_of_trl(name, batch, logprobs):
    trl_settings, our_settings = SAME[name]
    wanted, wanted_gradient = theirs(batch, logprobs, **trl_settings)
    got, gradient = ours(dpo, batch, logprobs, **our_settings)
    assert wanted_gradient.any()
    assert got == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-7)


def test_the_losses_compared_above_do_differ_from_one_another(batch, logprobs):
    values = sorted(theirs(batch, logprobs, **trl_settings)[0] for trl_settings, _ in SAME.values())
    assert min(b - a for a, b in pairwise(values)) > 1e-4


def test_trls_sigmoid_ignores_the_label_smoothing_and_its_robust_loss_does_not(batch, logprobs):
    plain = theirs(batch, logprobs)[0]
    assert theirs(batch, logprobs, label_smoothing=0.2)[0] == plain
    assert ours(dpo, batch, logprobs, label_smoothing=0.2)[0] != pytest.approx(plain, rel=1e-3)


def test_the_likelihood_term_is_per_answer_here_and_per_token_of_the_batch_there(batch, logprobs):
    """TRL's loss type `sft`, to be weighed beside `sigmoid`: long answers count more."""
    chosen = batch.sum_per_sequence(logprobs)[0::2]
    lengths = batch.actions_per_sequence()[0::2]
    nll = theirs(batch, logprobs, loss_type="sft")[0]
    assert nll == pytest.approx(-float(chosen.sum() / lengths.sum()), rel=1e-5)
    own = ours(dpo, batch, logprobs, nll_weight=1.0)[0] - ours(dpo, batch, logprobs)[0]
    assert own == pytest.approx(-float((chosen / lengths).mean()), rel=1e-5)
    assert own != pytest.approx(nll, rel=1e-3)


KTO = {
    "kto": ({"loss_type": "kto", "calculate_KL": True}, {}),
    "weighted": (
        {"loss_type": "kto", "calculate_KL": True, "desirable_weight": 1.3, "undesirable_weight": 0.7},
        {"desirable_weight": 1.3, "undesirable_weight": 0.7},
    ),
    "apo_zero_unpaired": ({"loss_type": "apo_zero_unpaired", "calculate_KL": False}, {"reference_point": "zero"}),
}


@pytest.mark.parametrize("name", KTO)
@pytest.mark.parametrize("drift", [0.3, -0.3])
def test_loss_and_gradient_of_judged_answers_are_those_of_trl(name, drift, batch, logprobs):
    """Four good or bad answers, and four mismatched ones from which the zero point comes (0 for the negative drift)."""
    trl_settings, our_settings = KTO[name]
    reference = torch.where(batch.action_mask, logprobs - drift, 0.0) + noise(batch, 0.2, seed=8)
    side = torch.tensor([1, 0, -1, 0, -1, 0, 1, 0])
    judged = batch.replace(side=side, old_logprobs=logprobs, ref_logprobs=reference)
    live, own = logprobs.clone().requires_grad_(), [0, 2, 4, 6]
    sums, said = judged.sum_per_sequence(reference), judged.sum_per_sequence(logprobs)
    given = inputs(judged, own) | {"label": side[own] == 1, "ref_logps": sums[own], "ref_KL_logps": sums[1::2]}
    trainer = stand_in(**({"desirable_weight": 1.0, "undesirable_weight": 1.0} | trl_settings))
    trainer._compute_kl_logps = lambda model, batch: said[1::2]
    loss = trl_module("trl.trainer.kto_trainer").KTOTrainer._compute_loss(
        trainer, model(judged, live, own), given, False
    )
    wanted = torch.autograd.grad(loss, live)[0]

    config = kto.Config(type="kto", **our_settings)
    kept, index = kto.estimate(config, judged), judged.token_index(own)
    mine = logprobs[index].clone().requires_grad_()
    result = kto.policy_loss(config, Outputs(logprobs=mine, entropy=mine.detach()), kept)
    assert float(result.total.detach()) / result.count == pytest.approx(float(loss.detach()), rel=1e-5)
    gradient = torch.autograd.grad(result.total / result.count, mine)[0]
    torch.testing.assert_close(gradient, wanted[index], rtol=1e-4, atol=1e-7)


def experimental(name: str) -> Any:
    return trl_module(f"trl.experimental.{name}.{name}_trainer")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_is_that_of_trls_cpo_trainer(smoothing, batch, logprobs):
    """simpo_gamma is beta times our margin."""
    trainer = stand_in(beta=2.0, alpha=0.0, loss_type="simpo", simpo_gamma=1.0, label_smoothing=smoothing)
    mean = batch.sum_per_sequence(logprobs) / batch.actions_per_sequence()
    wanted = experimental("cpo").CPOTrainer.cpo_loss(trainer, mean[0::2], mean[1::2])[0].mean()
    assert ours(simpo, batch, logprobs, label_smoothing=smoothing)[0] == pytest.approx(float(wanted), rel=1e-5)


def test_orpos_odds_are_those_of_trl(batch, logprobs):
    logprobs = torch.where(batch.action_mask, -logprobs.abs() - 0.01, 0.0)  # odds exist for probabilities below 1 only
    mean = batch.sum_per_sequence(logprobs) / batch.actions_per_sequence()
    losses = experimental("orpo").ORPOTrainer.odds_ratio_loss(stand_in(beta=0.1), mean[0::2], mean[1::2])[0]
    wanted = -float(mean[0::2].mean() + losses.mean())
    assert ours(orpo, batch, logprobs)[0] == pytest.approx(wanted, rel=1e-5)
