"""Per-token estimators of KL(policy || reference) from samples of the policy. d = logprobs - ref_logprobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from alignkit.types.batch import Batch

HORIZON = 10_000  # sequences in which the adapted weight may change by a fifth, as in Ziegler et al.


def k1(difference: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """d: unbiased, high variance. Right in the reward and as a monitor; as a loss its expected gradient is 0."""
    return difference


def k2(difference: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """d^2 / 2: biased value; as a loss its expected gradient is that of KL(policy || reference)."""
    return difference**2 / 2


def k3(difference: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """exp(-d) - 1 + d: unbiased, never negative; as a loss its expected gradient is that of KL(reference || policy)."""
    return (-difference).exp() - 1 + difference


def adapted_weight(batch: Batch, *, target: float | None) -> Mapping[str, float]:
    """The controls with the kl_weight of the next batch: larger while the policy is too far away (arXiv 1909.08593).

    kl_weight (1 + clip(KL / target - 1, -0.2, 0.2) n / HORIZON), KL: mean over the n sequences of their sum of
    old_logprobs - ref_logprobs. target None: unchanged.
    """
    if target is None:
        return batch.controls
    gap = batch.sum_per_sequence(batch.require("old_logprobs") - batch.require("ref_logprobs"))
    error = min(max(float(gap.mean()) / target - 1, -0.2), 0.2)
    return {**batch.controls, "kl_weight": batch.controls["kl_weight"] * (1 + error * batch.num_sequences / HORIZON)}
