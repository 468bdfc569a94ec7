"""Quantile reward models: the levels, the pinball loss, quantiles that cannot cross, and mixing attributes by a gate.

The last axis holds quantiles at the levels j / (M + 1), j = 1..M, as in `alignkit.ops.risk`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus


def levels(count: int) -> Float[Tensor, " level"]:
    """j / (count + 1) for j = 1..count."""
    return torch.arange(1, count + 1) / (count + 1)


def pinball(
    quantiles: Float[Tensor, "*batch level"], labels: Float[Tensor, "*batch"], at: Float[Tensor, " level"]
) -> Float[Tensor, "*batch"]:
    """Mean over levels of rho_tau(u) = u (tau - 1[u < 0]), u = label - quantile; least at the quantiles of the labels.

    A label that is NaN is missing: its loss is 0 and has no slope, so divide a sum by the number of labels that exist.
    """
    known = ~labels.isnan()
    gap = torch.where(known, labels, 0.0)[..., None] - quantiles
    loss = torch.where(gap < 0, gap * (at - 1), gap * at).mean(-1)
    return torch.where(known, loss, 0.0)


def monotone(raw: Float[Tensor, "*batch level"]) -> Float[Tensor, "*batch level"]:
    """Quantiles that never cross: the first entry as it is, then steps of softplus(entry) / M upwards.

    Divided by M, entries of 0 spread over 0.7 whatever M is: a head that begins there is not far from any labels.
    """
    return torch.cat([raw[..., :1], softplus(raw[..., 1:]) / raw.shape[-1]], -1).cumsum(-1)


def crossing_rate(quantiles: Float[Tensor, "*batch level"]) -> Float[Tensor, "*batch"]:
    """Share of neighbouring quantiles of which the higher level has the lower value; 0 for a single level."""
    falls = (quantiles.diff(dim=-1) < 0).to(quantiles)
    return falls.mean(-1) if falls.shape[-1] else quantiles.new_zeros(quantiles.shape[:-1])


def mix(
    gate: Float[Tensor, "*batch attribute"], quantiles: Float[Tensor, "*batch attribute level"]
) -> Float[Tensor, "*batch level"]:
    """sum_k gate_k q_{k,tau}: the distribution of the gated sum when all attributes rise and fall together.

    Level by level, so not the quantiles of a mixture distribution (2409.10164).
    """
    return (gate[..., None] * quantiles).sum(-2)
