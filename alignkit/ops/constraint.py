"""Lagrange multipliers of constrained RLHF (Safe RLHF, arXiv 2310.12773), for any number of costs."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor


def mixed(
    reward: Float[Tensor, " n"], costs: Float[Tensor, "constraint n"], multipliers: Float[Tensor, " constraint"]
) -> Float[Tensor, " n"]:
    """(reward - sum_k multiplier_k cost_k) / (1 + sum_k multiplier_k): what the policy is paid instead.

    The same of advantages, where each cost has a critic of its own. The division keeps its size, and so the weight of
    a KL term beside it, the same for all multipliers.
    """
    return (reward - (multipliers[:, None] * costs).sum(0)) / (1 + multipliers.sum())


def next_multiplier(multiplier: float, excess: float, *, lr: float, cap: float) -> float:
    """Gradient ascent on log multiplier: exp(log m + lr m excess), at most `cap`. excess: mean cost - its limit."""
    return math.exp(min(math.log(multiplier) + lr * multiplier * excess, math.log(cap)))
