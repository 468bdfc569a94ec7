"""A reward that does not see length: two heads share the work, one for quality, one that takes what length explains.

ODIN, arXiv 2402.07319. Their sum learns the preferences; only the quality head is used afterwards.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

TINY = 1e-12


def correlation(
    scores: Float[Tensor, " sequence"], lengths: Int[Tensor, " sequence"] | Float[Tensor, " sequence"]
) -> Float[Tensor, ""]:
    """Pearson's correlation within the batch; 0, without a slope, where one side is constant or alone."""
    one = scores - scores.mean()
    other = lengths.to(scores)
    other = other - other.mean()
    spread = ((one**2).sum() * (other**2).sum()).clamp(min=TINY).sqrt()
    return (one * other).sum() / spread


def disentangle(
    quality: Float[Tensor, " sequence"],
    absorbed: Float[Tensor, " sequence"],
    lengths: Int[Tensor, " sequence"] | Float[Tensor, " sequence"],
) -> Float[Tensor, ""]:
    """|correlation(quality, lengths)| - correlation(absorbed, lengths), from 2 down to -1.

    It needs the whole batch at once: correlations of its parts do not add up.
    """
    return correlation(quality, lengths).abs() - correlation(absorbed, lengths)
