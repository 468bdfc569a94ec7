"""Statistics over the true entries of a mask; entries outside it can hold anything, even NaN."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def mean(values: Float[Tensor, " n"], mask: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean of the masked values; 0 when the mask is empty."""
    return values[mask].sum() / mask.sum().clamp(min=1)


def var(values: Float[Tensor, " n"], mask: Bool[Tensor, " n"], *, unbiased: bool = False) -> Float[Tensor, ""]:
    """Variance of the masked values: population, or with the n-1 divisor when `unbiased`; 0 for fewer than 2."""
    centred = values[mask] - mean(values, mask)
    return (centred**2).sum() / (mask.sum() - int(unbiased)).clamp(min=1)


def whiten(
    values: Float[Tensor, " n"], mask: Bool[Tensor, " n"], *, keep_mean: bool = False, eps: float = 1e-8
) -> Float[Tensor, " n"]:
    """(values - mean) / sqrt(var + eps) over the mask (population variance), 0 outside; optionally keeps the mean."""
    centre = mean(values, mask)
    scaled = (values - centre) / (var(values, mask) + eps).sqrt() + (centre if keep_mean else 0.0)
    return scaled.where(mask, 0.0)
