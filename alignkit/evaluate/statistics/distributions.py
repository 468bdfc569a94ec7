"""Whether predicted distributions hold what they promise: coverage, crossing, CRPS. Pure maths.

Quantiles are rows of values at the levels j / (M + 1), j = 1..M, lowest level first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from alignkit.evaluate.benchmark.metrics import Number, absent, rate
from alignkit.evaluate.statistics.statistics import paired_bootstrap

Values = Sequence[float] | np.ndarray
SHARES = (0.5, 0.8, 0.95)


def levels(count: int) -> np.ndarray:
    """j / (count + 1) for j = 1..count."""
    return np.arange(1, count + 1) / (count + 1)


def quantile_at(quantiles: np.ndarray, level: float) -> np.ndarray:
    """Each row's quantile at `level`, linear between its neighbours. Raises ValueError beyond the outermost levels."""
    count = quantiles.shape[1]
    place = level * (count + 1) - 1
    if not -1e-9 <= place <= count - 1 + 1e-9:
        raise ValueError(f"level {level:g} is beyond the outermost of {count} levels, {1 / (count + 1):g}")
    below = min(max(math.floor(place + 1e-9), 0), count - 1)
    above, share = min(below + 1, count - 1), min(max(place - below, 0.0), 1.0)
    return (1 - share) * quantiles[:, below] + share * quantiles[:, above]


def coverage(quantiles: np.ndarray, labels: Values, share: float) -> Number:
    """How many labels lie in the central interval that promises to hold this share of them, ends included.

    None with a cause where the outermost levels do not reach that far: M levels reach (M - 1) / (M + 1).
    """
    ordered, truth = np.sort(quantiles, axis=1), np.asarray(labels, dtype=np.float64)
    try:
        low, high = (quantile_at(ordered, (1 + sign * share) / 2) for sign in (-1, 1))
    except ValueError as error:
        return absent(str(error))
    held = (low <= truth) & (truth <= high)
    return rate(int(held.sum()), len(truth), cause="no label")


def crossing_rate(quantiles: np.ndarray) -> Number:
    """Share of neighbouring levels, over all rows, of which the higher has the lower value."""
    falls = np.diff(quantiles, axis=1) < 0
    return rate(int(falls.sum()), falls.size, cause="a single level cannot cross")


def below(quantiles: np.ndarray, labels: Values) -> np.ndarray:
    """Of each level the share of labels that lie below its quantile, ties half: a calibrated model gives the level."""
    truth = np.asarray(labels, dtype=np.float64)[:, None]
    return ((truth < quantiles).mean(axis=0) + (truth <= quantiles).mean(axis=0)) / 2


def crps(quantiles: np.ndarray, labels: Values) -> np.ndarray:
    """Continuous ranked probability score of each row, in the labels' unit; lower is better.

    2 * the integral over the levels of the pinball loss, by the trapezoid rule (the loss is 0 at both ends). For a
    single point it is the absolute error.
    """
    at = levels(quantiles.shape[1])
    gap = np.asarray(labels, dtype=np.float64)[:, None] - np.sort(quantiles, axis=1)
    return 2 * np.where(gap < 0, gap * (at - 1), gap * at).sum(axis=1) / (len(at) + 1)


def crps_gaussian(means: Values, spread: float, labels: Values) -> np.ndarray:
    """The same of normal distributions, in closed form: s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), z = error / s.

    spread: the standard deviation of all; 0 gives the absolute error.
    """
    error = np.asarray(labels, dtype=np.float64) - np.asarray(means, dtype=np.float64)
    if spread == 0:
        return np.abs(error)
    z = error / spread
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    share_within = np.array([math.erf(value / math.sqrt(2)) for value in z])
    return spread * (z * share_within + 2 * density - 1 / math.sqrt(math.pi))


def mean_score(scores: np.ndarray, *, seed: int = 0) -> Number:
    """Mean with a bootstrap interval, in the labels' unit."""
    interval = paired_bootstrap(scores.tolist(), seed=seed)
    return {
        "value": float(scores.mean()),
        "low": interval.low,
        "high": interval.high,
        "n": len(scores),
        "unit": "score",
    }
