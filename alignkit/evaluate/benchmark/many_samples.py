"""Estimators for benchmarks that ask every question several times: pass@k, G-Pass@k, majority@k, avg@k.

Each is the exact mean over all ways to choose k of the samples that were drawn, so none depends on their order.
Source of the formulas: arXiv 2107.03374 (pass@k), 2412.13147 (G-Pass@k), 2203.11171 (majority), 2411.00640 (clusters).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist, fmean

from alignkit.evaluate.statistics.statistics import Interval, student_quantile, wilson_of_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over samples of several per task. standard_error and interval (95 %) treat tasks, not samples, as drawn.

    standard_error is None for a single task. interval is None where the scores are not between 0 and 1.
    """

    value: float
    standard_error: float | None
    interval: Interval | None
    tasks: int
    samples: int


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased chance that at least one of k samples is right, from `correct` right ones among `samples`.

    1 - C(samples - correct, k) / C(samples, k). Raises ValueError unless 1 <= k <= samples and
    0 <= correct <= samples.
    """
    _check(samples, correct, k)
    return float(1 - Fraction(math.comb(samples - correct, k), math.comb(samples, k)))


def g_pass_at_k(samples: int, correct: int, k: int, *, threshold: float) -> float:
    """Chance that at least ceil(threshold k) of k samples are right: hypergeometric tail.

    threshold above 0 and at most 1: 1 / k gives pass@k, 1 gives the chance that all k are right. Raises ValueError
    for impossible counts or thresholds.
    """
    _check(samples, correct, k)
    if not 0 < threshold <= 1:
        raise ValueError(f"wanted 0 < threshold <= 1; got {threshold}")
    needed = math.ceil(threshold * k - 1e-9)  # 0.7 * 10 is a little more than 7 in floating point
    return float(_tail(samples, correct, k, needed))


def mean_g_pass_at_k(samples: int, correct: int, k: int) -> float:
    """G-Pass@k averaged over thresholds from 1/2 to 1: (2 / k) times its sum over i = ceil(k/2) + 1 ... k at i / k."""
    needed = range(math.ceil(k / 2) + 1, k + 1)
    return 2 / k * sum(g_pass_at_k(samples, correct, k, threshold=count / k) for count in needed)


def majority_at_k(counts: Sequence[int], right: Sequence[bool], k: int, *, silent: int = 0) -> float:
    """Chance that the most frequent of k answers is right; a tie counts as the share of right answers among the tied.

    counts: how many samples gave each answer (one entry per class of equal answers). right: whether that answer is
    right. silent: samples without an answer; they are drawn but cast no vote, and k silent samples are not right.
    Raises ValueError unless 1 <= k <= all samples.
    """
    samples = sum(counts) + silent
    if not 1 <= k <= samples or len(counts) != len(right) or min((silent, *counts)) < 0:
        raise ValueError(f"wanted 1 <= k <= samples and one mark per count; got {k=}, {counts=}, {right=}, {silent=}")
    favourable = Fraction(0)
    for index in (index for index, good in enumerate(right) if good):
        others = [count for other, count in enumerate(counts) if other != index]
        for votes in range(1, min(k, counts[index]) + 1):
            ways = _elections(others, silent, drawn=k - votes, votes=votes)
            shared = sum((Fraction(number, tied + 1) for tied, number in ways.items()), Fraction(0))
            favourable += math.comb(counts[index], votes) * shared
    return float(favourable / math.comb(samples, k))


def equivalence_classes(answers: Sequence[str | None], same: Callable[[str, str], bool | None]) -> list[list[int]]:
    """Indices of equal answers, in order of first appearance; None (no answer) belongs to no class.

    same: whether two answers mean the same; each answer is compared with the first of every class, so None (cannot
    say) opens a class of its own unless the texts are equal.
    """
    classes: list[list[int]] = []
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        for members in classes:
            first = answers[members[0]]
            if first is not None and (first == answer or same(first, answer)):
                members.append(index)
                break
        else:
            classes.append([index])
    return classes


def avg_at_k(scores: Sequence[Sequence[float]], *, confidence: float = 0.95) -> Mean:
    """Mean over all samples of all tasks; its error takes tasks as clusters, whose samples are not independent.

    scores: the scores of each task's samples; tasks without one are left out. With n samples, G tasks and the residual
    sums r_g of the tasks, standard_error = sqrt(G / (G - 1) sum r_g^2) / n. interval: Wilson's, with one sample a task
    for right/wrong scores; else for the number of independent samples that would have this error, made smaller by
    (z / t)^2 because the error itself is estimated from G tasks (Korn and Graubard 1998). Raises ValueError when no
    task has a score.
    """
    groups = [[float(value) for value in group] for group in scores if group]
    if not groups:
        raise ValueError("a mean needs at least one scored sample")
    samples, tasks = sum(len(group) for group in groups), len(groups)
    value = fmean([score for group in groups for score in group])
    squares = math.fsum((math.fsum(group) - len(group) * value) ** 2 for group in groups)
    error = math.sqrt(squares * tasks / (tasks - 1)) / samples if tasks > 1 else None
    interval = None
    if all(0 <= score <= 1 for group in groups for score in group):
        interval = wilson_of_rate(value, _independent(groups, value, error, confidence), confidence=confidence)
    return Mean(value=value, standard_error=error, interval=interval, tasks=tasks, samples=samples)


def _independent(groups: Sequence[Sequence[float]], value: float, error: float | None, confidence: float) -> float:
    """Number of independent right/wrong samples as informative as these."""
    tasks, samples = len(groups), sum(len(group) for group in groups)
    if tasks == samples and all(score in (0, 1) for group in groups for score in group):
        return tasks
    if not error or not 0 < value < 1:  # no spread between tasks: the tasks still are all that was drawn
        return tasks
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    equal = value * (1 - value) / error**2 * (z / student_quantile(confidence, tasks - 1)) ** 2
    return min(max(equal, 1.0), samples)


def _check(samples: int, correct: int, k: int) -> None:
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"wanted 1 <= k <= samples and 0 <= correct <= samples; got {k=}, {samples=}, {correct=}")


def _tail(samples: int, correct: int, k: int, needed: int) -> Fraction:
    """Chance of at least `needed` right ones among k drawn without replacement."""
    ways = sum(math.comb(correct, hits) * math.comb(samples - correct, k - hits) for hits in range(needed, k + 1))
    return Fraction(ways, math.comb(samples, k))


def _elections(others: Sequence[int], silent: int, *, drawn: int, votes: int) -> dict[int, int]:
    """Number of ways to draw `drawn` samples of the other classes, none with more than `votes`; by number of ties."""
    ways = {(number, 0): math.comb(silent, number) for number in range(min(silent, drawn) + 1)}
    for count in others:
        following: dict[tuple[int, int], int] = {}
        for (used, tied), number in ways.items():
            for taken in range(min(count, votes, drawn - used) + 1):
                place = (used + taken, tied + (taken == votes))
                following[place] = following.get(place, 0) + number * math.comb(count, taken)
        ways = following
    result: dict[int, int] = {}
    for (used, tied), number in ways.items():
        if used == drawn:
            result[tied] = result.get(tied, 0) + number
    return result
