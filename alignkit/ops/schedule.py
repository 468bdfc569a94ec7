"""Learning-rate schedules as pure functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    total: int,
    warmup: int = 0,
    shape: Literal["constant", "linear", "cosine"] = "constant",
    final_fraction: float = 0.0,
) -> float:
    """Learning rate of optimizer step `step` (0-based) of `total`.

    Warm-up: peak (step + 1) / warmup for step < warmup. Then progress p goes from 0 to 1 over the remaining steps:
    constant peak; linear peak (1 - p (1 - f)); cosine peak (f + (1 - f) (1 + cos(pi p)) / 2), f = final_fraction.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if shape == "constant":
        return peak
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if shape == "linear":
        return peak * (1 - progress * (1 - final_fraction))
    return peak * (final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2)


def warmup_updates(given: float, total: int) -> int:
    """Optimizer steps of a warm-up: `given`, or where that is below 1 this share of `total`, rounded."""
    return round(given * total) if given < 1 else int(given)
