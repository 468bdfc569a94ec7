"""Our grpo loss against TRL's own code on the same tensors: GRPOTrainer._compute_loss, called with a stand-in for self.

The stand-in returns given log-probs instead of running a model and holds the settings; everything after is TRL's.

| TRL                           | ours                               | the same?                                      |
|-------------------------------|------------------------------------|------------------------------------------------|
| loss_type grpo                | aggregate sequence_mean_token_mean | yes                                            |
| loss_type bnpo                | aggregate token_mean               | yes, on a single micro-batch                   |
| loss_type dapo                | aggregate token_mean               | yes                                            |
| loss_type dr_grpo             | aggregate sequence_mean_constant   | yes                                            |
| loss_type cispo, epsilon_high | surrogate cispo, clip_high         | yes; TRL names the cap, we the cap less 1      |
| loss_type sapo                | surrogate sapo                     | yes                                            |
| importance_sampling_level     | ratio                              | yes                                            |
| beta                          | kl loss, kl_weight, k3             | yes                                            |
| delta                         | clip_dual                          | yes, for delta above 1 + epsilon_high          |
| vLLM token_truncate           | correction truncate                | yes; both leave the KL term alone              |
| vLLM sequence_mask (default)  | -                                  | not offered: long sequences drift past any cap |
| sequence of no action token   | not counted                        | no: TRL counts it as a loss of 0               |
| log-ratio beyond 20           | clamped                            | no: TRL lets it grow until it overflows        |
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.algorithms.rollouts.grpo import Config, PolicyLoss, estimate, policy_loss
from alignkit.ops.policy import correction
from alignkit.types.batch import FLOAT_COLUMNS, Batch
from alignkit.types.outputs import Outputs
from tests.tiny import noise, random_batch
from tests.trls import trl_module

LONGEST = 9


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Sequences of 1 to 9 tokens, some not chosen by the policy; log-probs that differ enough to be clipped."""
    batch = random_batch([(3, [4, 9, 1, 2]), (2, [7, 5])], holes=True, seed=3)
    logprobs = torch.where(batch.action_mask, -torch.rand(batch.num_tokens) * 4, 0.0)
    batch = batch.replace(
        old_logprobs=logprobs + noise(batch, 0.3, seed=1),
        ref_logprobs=logprobs + noise(batch, 0.5, seed=2),
        sampler_logprobs=logprobs + noise(batch, 0.6, seed=4),
    )
    return estimate(Config(type="grpo"), batch.replace(reward=torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 0.0])))


@pytest.fixture(scope="module")
def logprobs(batch) -> Tensor:
    return batch.require("old_logprobs") + noise(batch, 0.4, seed=5)


def padded(batch: Batch, column: Tensor) -> Tensor:
    """(sequence, LONGEST): a column's values on each sequence's own tokens, right-padded."""
    rows = torch.zeros(batch.num_sequences, LONGEST, dtype=column.dtype)
    for index in range(batch.num_sequences):
        own = column[batch.segment == index]
        rows[index, : len(own)] = own
    return rows


def theirs(batch: Batch, logprobs: Tensor, **settings: Any) -> tuple[float, Tensor]:
    """(TRL's loss, its gradient on the packed log-probs)."""
    live = logprobs.clone().requires_grad_()
    mask = padded(batch, batch.action_mask.float())
    rows = padded(batch, torch.where(batch.action_mask, live, 0.0))
    options = {"loss_type": "dapo", "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "use_vllm": False}
    options |= {"importance_sampling_level": "token", "delta": None} | settings
    delta = options.pop("delta")
    stand_in = SimpleNamespace(
        **options,
        args=SimpleNamespace(
            delta=delta,
            use_bias_correction_kl=False,
            steps_per_generation=1,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
        ),
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (rows, torch.zeros_like(rows), None),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True
        ),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    columns = {name: padded(batch, batch.require(name)) for name in ("old_logprobs", "ref_logprobs")}
    inputs = {
        "prompt_ids": torch.zeros(batch.num_sequences, 1, dtype=torch.long),
        "prompt_mask": torch.ones(batch.num_sequences, 1, dtype=torch.long),
        "completion_ids": torch.zeros(batch.num_sequences, LONGEST, dtype=torch.long),
        "completion_mask": padded(batch, torch.ones(batch.num_tokens)),
        "tool_mask": mask,
        "advantages": batch.sum_per_sequence(batch.require("advantages")) / mask.sum(1).clamp(min=1),
        "old_per_token_logps": columns["old_logprobs"],
        "ref_per_token_logps": columns["ref_logprobs"],
        "num_items_in_batch": mask.sum(),
    }
    if options["use_vllm"]:
        weights = correction(
            batch.require("old_logprobs"), batch.require("sampler_logprobs"), how="truncate", floor=0, cap=2
        )
        inputs["importance_sampling_ratio"] = padded(batch, weights)
    trainer = trl_module("trl.trainer.grpo_trainer")
    loss = trainer.GRPOTrainer._compute_loss(stand_in, None, inputs)
    loss.backward()
    assert live.grad is not None
    return float(loss.detach()), live.grad


def ours(batch: Batch, logprobs: Tensor, **settings: Any) -> tuple[float, Tensor]:
    live = logprobs.clone().requires_grad_()
    config = Config(type="grpo", loss=PolicyLoss(**({"correction": "none"} | settings)))
    loss = policy_loss(config, Outputs(logprobs=live, entropy=torch.zeros_like(live)), batch)
    (loss.total / loss.count).backward()
    assert live.grad is not None
    return float(loss.total.detach()) / loss.count, live.grad


SAME = {
    "grpo": ({"loss_type": "grpo"}, {"aggregate": "sequence_mean_token_mean"}),
    "bnpo": ({"loss_type": "bnpo"}, {"aggregate": "token_mean"}),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, {"aggregate": "token_mean", "clip_high": 0.28}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"aggregate": "sequence_mean_constant", "aggregate_constant": LONGEST}),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.3}, {"surrogate": "cispo", "clip_high": 0.3}),
    "sapo": ({"loss_type": "sapo"}, {"surrogate": "sapo", "aggregate": "sequence_mean_token_mean"}),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {"aggregate": "sequence_mean_token_mean", "ratio": "sequence"},
    ),
    "kl": ({"loss_type": "dapo", "beta": 0.07}, {"kl": "loss", "kl_weight": 0.07}),
    "grpo with kl": (
        {"loss_type": "grpo", "beta": 0.07},
        {"aggregate": "sequence_mean_token_mean", "kl": "loss", "kl_weight": 0.07},
    ),
    "truncated correction": ({"use_vllm": True}, {"correction": "truncate", "correction_cap": 2.0}),
    "correction with kl": (
        {"use_vllm": True, "beta": 0.07},
        {"correction": "truncate", "correction_cap": 2.0, "kl": "loss", "kl_weight": 0.07},
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_loss_and_gradient_are_those_of_trl(name, batch, logprobs):
    trl_settings, our_settings = SAME[name]
    wanted, wanted_gradient = theirs(batch, logprobs, **trl_settings)
    got, gradient = ours(batch, logprobs, **our_settings)
    assert wanted_gradient.any()
    assert got == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-5, atol=1e-7)


def test_the_losses_compared_above_do_differ_from_one_another(batch, logprobs):
    """With ratios of .4 deviation and holes in the masks none of these settings is the same as another by accident."""
    losses = {name: theirs(batch, logprobs, **trl_settings)[0] for name, (trl_settings, _) in SAME.items()}
    del losses["bnpo"]  # dapo without its looser clip, on one micro-batch
    values = sorted(losses.values())
    assert min(b - a for a, b in pairwise(values)) > 1e-4


def test_the_dual_clip_agrees_for_bad_tokens_and_leaves_good_ones_alone(batch, logprobs):
    """TRL clamps the ratio at delta before the minimum, for both signs; above 1 + epsilon that changes only A < 0."""
    wanted = theirs(batch, logprobs, delta=1.5)
    got = ours(batch, logprobs, clip_dual=1.5)
    assert got[0] == pytest.approx(wanted[0], rel=1e-5)
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-5, atol=1e-7)
    assert wanted[0] != pytest.approx(theirs(batch, logprobs)[0], rel=1e-3)


def test_a_sequence_without_action_tokens_is_counted_by_trl_and_not_by_us(batch, logprobs):
    """Six sequences of which one was wholly masked: TRL's mean is over six, ours over the five that were trained."""
    mask = batch.action_mask & (batch.segment != 3)
    columns = {n: torch.where(mask, column, 0.0) for n in FLOAT_COLUMNS if (column := getattr(batch, n)) is not None}
    fewer = batch.replace(action_mask=mask, **columns)
    live = torch.where(mask, logprobs, 0.0)
    kept = [0, 1, 2, 4, 5]
    without = theirs(fewer.select(kept), live[fewer.token_index(kept)], loss_type="grpo")[0]
    assert ours(fewer, live, aggregate="sequence_mean_token_mean")[0] == pytest.approx(without, rel=1e-5)
    assert theirs(fewer, live, loss_type="grpo")[0] == pytest.approx(without * 5 / 6, rel=1e-5)
