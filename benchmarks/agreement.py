"""Whether both sides of the GRPO step computed the same thing from the same token ids and advantages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

LOSS_TOLERANCE = 1e-3
LOSS_ROUNDING = 1e-6  # completions of equal length make the loss 0 but for rounding
ERROR_RATIO = 1.25  # the rounding error of our gradient may be this many times that of TRL's
EXACT = 1e-6  # 1 - cosine of gradients that differ by float32 rounding only
MOST_DIGITS = 9
Gradient = dict[str, Any]  # tensors by the names of the weights


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What both sides computed, and cosines of gradients over all weights.

    cosine: of ours and TRL's. our_error, trl_error: 1 - cosine with our gradient in float32.
    """

    our_loss: float
    trl_loss: float
    our_entropy: float
    trl_entropy: float
    cosine: float
    our_error: float
    trl_error: float

    @property
    def holds(self) -> bool:
        """Losses are equal, and our gradient is no further from the exact one than TRL's is."""
        same_loss = math.isclose(self.our_loss, self.trl_loss, rel_tol=LOSS_TOLERANCE, abs_tol=LOSS_ROUNDING)
        return same_loss and self.our_error <= max(ERROR_RATIO * self.trl_error, EXACT)


def compare(
    ours: dict[str, float], trl: dict[str, float], exact: Gradient, our_gradient: Gradient, trl_gradient: Gradient
) -> Agreement:
    """ours, trl: "loss" and "entropy"."""
    return Agreement(
        our_loss=ours["loss"],
        trl_loss=trl["loss"],
        our_entropy=ours["entropy"],
        trl_entropy=trl["entropy"],
        cosine=cosine(our_gradient, trl_gradient),
        our_error=1 - cosine(our_gradient, exact),
        trl_error=1 - cosine(trl_gradient, exact),
    )


def cosine(ours: Gradient, trl: Gradient) -> float:
    if ours.keys() != trl.keys():
        raise ValueError(f"the two models have different weights: {sorted(ours.keys() ^ trl.keys())[:3]}")
    dot, ours_square, trl_square = (
        sum(float((left[name].double() * right[name].double()).sum()) for name in ours)
        for left, right in ((ours, trl), (ours, ours), (trl, trl))
    )
    return dot / (ours_square * trl_square) ** 0.5


def same_digits(ours: float, trl: float) -> str:
    """How far two losses are the same, in words: leading digits, or both 0 but for rounding."""
    if max(abs(ours), abs(trl)) < LOSS_ROUNDING:
        return "both 0 but for rounding"
    difference = abs(ours - trl) / max(abs(ours), abs(trl))
    digits = MOST_DIGITS if difference == 0 else min(MOST_DIGITS, math.floor(-math.log10(difference)))
    return f"same to {digits} digits" if digits > 0 else "**different**"
