"""Per-token estimators of KL(policy || reference) from samples of the policy. d = logprobs - ref_logprobs."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def k1(difference: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """d: unbiased, high variance. Right in the reward and as a monitor; as a loss its expected gradient is 0."""
    return difference


def k2(difference: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """d^2 / 2: biased value; as a loss its expected gradient is that of KL(policy || reference)."""
    return difference**2 / 2


def k3(difference: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """exp(-d) - 1 + d: unbiased, never negative; as a loss its expected gradient is that of KL(reference || policy)."""
    return (-difference).exp() - 1 + difference
