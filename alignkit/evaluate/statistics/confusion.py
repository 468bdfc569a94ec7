"""Rates measured by a scorer that errs, corrected by its known errors (Rogan and Gladen 1978)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from alignkit.errors import DataError
from alignkit.evaluate.statistics.statistics import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Counts of a scorer's verdicts against human labels; `positive` is the event whose rate is measured."""

    true_positive: int
    false_negative: int
    false_positive: int
    true_negative: int

    @property
    def positives(self) -> int:
        return self.true_positive + self.false_negative

    @property
    def negatives(self) -> int:
        return self.false_positive + self.true_negative

    @property
    def sensitivity(self) -> float:
        return self.true_positive / self.positives

    @property
    def specificity(self) -> float:
        return self.true_negative / self.negatives

    @property
    def agreement(self) -> float:
        return (self.true_positive + self.true_negative) / (self.positives + self.negatives)

    @property
    def usable(self) -> bool:
        """Whether a rate can be corrected: labels of both kinds, and verdicts better than chance."""
        return self.positives > 0 and self.negatives > 0 and self.sensitivity + self.specificity > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedRate:
    value: float
    interval: Interval


def read_confusion(known_error: Mapping[str, Any]) -> Confusion:
    """The four counts of a scorer's `known_error`. Raises DataError when one is missing or no whole number."""
    names = ("true_positive", "false_negative", "false_positive", "true_negative")
    bad = [name for name in names if not isinstance(known_error.get(name), int) or known_error[name] < 0]
    if bad:
        raise DataError(f"known_error: {bad[0]} is {known_error.get(bad[0])!r}; wanted a whole number of labels")
    return Confusion(**{name: known_error[name] for name in names})


def corrected_rate(positives: float, trials: int, confusion: Confusion, *, confidence: float = 0.95) -> CorrectedRate:
    """True rate behind `positives` verdicts of `trials`: (rate + specificity - 1) / (sensitivity + specificity - 1).

    Cut to [0, 1]. The interval carries the uncertainty of the sample and of both error rates (Lang and Reiczigel 2014,
    method with added observations). Raises DataError when the scorer is no better than chance or was not labelled
    with both kinds, ValueError without trials.
    """
    if trials < 1 or not 0 <= positives <= trials:
        raise ValueError(f"wanted 0 <= positives <= trials and trials >= 1; got {positives} of {trials}")
    if not confusion.usable:
        raise DataError("a rate cannot be corrected by a scorer that is no better than chance, or saw one kind only")
    value = _true_rate(positives / trials, confusion.sensitivity, confusion.specificity)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    sensitivity = (confusion.true_positive + 1) / (confusion.positives + 2)
    specificity = (confusion.true_negative + 1) / (confusion.negatives + 2)
    seen = (positives + z * z / 2) / (trials + z * z)
    centre = _true_rate(seen, sensitivity, specificity)
    spread_positive = sensitivity * (1 - sensitivity) / (confusion.positives + 2)
    spread_negative = specificity * (1 - specificity) / (confusion.negatives + 2)
    variance = seen * (1 - seen) / (trials + z * z)
    variance += centre**2 * spread_positive + (1 - centre) ** 2 * spread_negative
    half = z * math.sqrt(variance) / (sensitivity + specificity - 1)
    centre += 2 * z * z * (centre * spread_positive - (1 - centre) * spread_negative)
    interval = Interval(_cut(min(centre - half, value)), _cut(max(centre + half, value)))
    return CorrectedRate(value=_cut(value), interval=interval)


def _true_rate(seen: float, sensitivity: float, specificity: float) -> float:
    return (seen + specificity - 1) / (sensitivity + specificity - 1)


def _cut(rate: float) -> float:
    return min(1.0, max(0.0, rate))
