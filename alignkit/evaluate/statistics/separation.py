"""How well scores tell right from wrong: ROC, AUC, thresholds, calibration, agreement of two graders. Pure maths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from alignkit.evaluate.statistics.statistics import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Rows whose probabilities lie from low to high: their number, mean probability and share that was right."""

    low: float
    high: float
    count: int
    mean: float
    right: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """error: expected calibration error, the mean gap |right - mean| over bins weighted by count. brier: mean squared
    gap of probability and outcome."""

    error: float
    brier: float
    bins: tuple[Bin, ...]


def auc(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """Chance that a right answer scores above a wrong one, ties counting half (Mann-Whitney); None for one kind."""
    ranks, labels = _ranks(scores), np.asarray(right, dtype=bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return None
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_interval(area: float, positives: int, negatives: int, *, confidence: float = 0.95) -> Interval:
    """Interval of an AUC by Newcombe's method 5 (2006): Wilson's idea with Hanley and McNeil's variance.

    Ends solve |area - t| = z sqrt(V(t)), so that a perfect separation of few rows still has a lower end below 1.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = (positives + negatives) / 2 - 1

    def error(t: float) -> float:
        spread = 1 + share * ((1 - t) / (2 - t) + t / (1 + t))
        return z * math.sqrt(max(t * (1 - t) * spread / (positives * negatives), 0.0))

    low = _root(lambda t: area - t - error(t), 0.0, area) if area > 0 else 0.0
    high = _root(lambda t: t - area - error(t), 1.0, area) if area < 1 else 1.0
    return Interval(low, high)


def roc(scores: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float]]:
    """(false accept rate, true accept rate) for every threshold, from accepting nothing to accepting all."""
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    points = [(0.0, 0.0)]
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1) if len(order) else []
    accepted, right_accepted = np.arange(1, len(order) + 1), np.cumsum(labels[order])
    for end in ends:
        wrong = accepted[end] - right_accepted[end]
        points.append((float(wrong / max((~labels).sum(), 1)), float(right_accepted[end] / max(labels.sum(), 1))))
    return points


def best_threshold(scores: Sequence[float], right: Sequence[bool]) -> float:
    """The threshold with the best mean of true accept and true reject rate: midway to the next lower score.

    Answers with `score >= threshold` count as accepted. Raises ValueError without scores.
    """
    if not len(scores):
        raise ValueError("a threshold needs at least one score")
    values = sorted(set(scores), reverse=True)
    gains = [accept - refuse for refuse, accept in roc(scores, right)[1:]]
    chosen = int(np.argmax(gains))
    return (values[chosen] + values[chosen + 1]) / 2 if chosen + 1 < len(values) else values[chosen]


def calibration(probabilities: Sequence[float], right: Sequence[bool], *, bins: int = 10) -> Calibration:
    """Calibration over `bins` bins of equal count (fewer where probabilities are equal: ties stay in one bin)."""
    values, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(right, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    values, labels = values[order], labels[order]
    cuts = [round(len(values) * number / bins) for number in range(1, bins)]
    cuts = sorted({int(np.searchsorted(values, values[cut], side="left")) for cut in cuts if cut < len(values)} - {0})
    parts = zip(np.split(values, cuts), np.split(labels, cuts), strict=True)
    made = tuple(
        Bin(low=float(v[0]), high=float(v[-1]), count=len(v), mean=float(v.mean()), right=float(outcome.mean()))
        for v, outcome in parts
        if len(v)
    )
    error = sum(one.count * abs(one.right - one.mean) for one in made) / max(len(values), 1)
    return Calibration(error=error, brier=float(np.mean((values - labels) ** 2)) if len(values) else 0.0, bins=made)


def kappa(one: Sequence[bool], other: Sequence[bool]) -> float | None:
    """Cohen's kappa: agreement beyond chance; None where chance alone would agree always."""
    a, b = np.asarray(one, dtype=bool), np.asarray(other, dtype=bool)
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return None if chance == 1 else float(((a == b).mean() - chance) / (1 - chance))


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Correlation of the ranks, ties sharing their mean rank; None where one side is constant."""
    a, b = _ranks(one), _ranks(other)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def kendall(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's tau-b: pairs in the same order minus pairs in the opposite one, over the geometric mean of the pairs
    that each side orders; None where one side is constant."""
    a, b = (np.sign(np.subtract.outer(side, side)) for side in map(np.asarray, (one, other)))
    ordered = math.sqrt(np.sum(a != 0)) * math.sqrt(np.sum(b != 0))
    return float(np.sum(a * b) / ordered) if ordered else None


def _ranks(scores: Sequence[float]) -> np.ndarray:
    """Ranks from 1; equal scores share the mean of theirs."""
    _, index, counts = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[index]


def _root(gap: Callable[[float], float], outer: float, inner: float) -> float:
    """Where `gap` changes sign between `outer` (gap >= 0) and `inner` (gap <= 0)."""
    for _ in range(80):
        middle = (outer + inner) / 2
        if gap(middle) > 0:
            outer = middle
        else:
            inner = middle
    return outer
