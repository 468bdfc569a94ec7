"""Whether two ways to train differ, from several repetitions of each: t-tests over seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import fmean, variance

from alignkit.evaluate.statistics.statistics import Interval, student_quantile, within_student


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """difference: second minus first mean, with its 95 % interval and two-sided p-value.

    detectable: smallest true difference that this spread and this many seeds show with 80 % power. seeds: repetitions
    of the first and of the second. paired: the same seeds on both sides, compared one by one.
    """

    difference: float
    interval: Interval
    p_value: float
    detectable: float
    seeds: tuple[int, int]
    paired: bool


def compare_repeats(
    first: Mapping[Hashable, float], second: Mapping[Hashable, float], *, confidence: float = 0.95
) -> Repeats | None:
    """One score per seed on each side; None where a side has fewer than two, because one shows no spread.

    The same seeds: t = mean(d) / sqrt(var(d) / n) with n - 1 degrees of freedom, d the differences seed by seed.
    Others: Welch's t = (mean(y) - mean(x)) / sqrt(u + v), u and v the variances of the means, with Satterthwaite's
    (u + v)^2 / (u^2 / (n - 1) + v^2 / (m - 1)) degrees of freedom, rounded down. Without any spread p is 0 or 1.
    """
    if min(len(first), len(second)) < 2:
        return None
    difference = fmean(second.values()) - fmean(first.values())
    paired = first.keys() == second.keys()
    if paired:
        squared = variance([second[seed] - first[seed] for seed in first]) / len(first)
        degrees = len(first) - 1
    else:
        parts = [(variance(side.values()) / len(side), len(side) - 1) for side in (first, second)]
        squared = sum(part for part, _ in parts)
        degrees = max(int(squared**2 / sum(part**2 / free for part, free in parts)), 1) if squared else 1
    error = math.sqrt(squared)
    half = student_quantile(confidence, degrees) * error
    p_value = 1 - within_student(abs(difference) / error, degrees) if error else float(difference == 0)
    return Repeats(
        difference=difference,
        interval=Interval(difference - half, difference + half),
        p_value=p_value,
        detectable=half + student_quantile(0.6, degrees) * error,
        seeds=(len(first), len(second)),
        paired=paired,
    )
