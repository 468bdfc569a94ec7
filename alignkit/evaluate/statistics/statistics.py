"""Small-sample statistics for scores of language models: pure functions, checked against closed forms and enumeration.

Wilson's interval for one rate, because the normal interval is too narrow below a few hundred items (arXiv 2503.01747);
exact tests and a seeded bootstrap for paired differences, because both models answer the same problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.random import Generator, Philox

from alignkit.types.seeds import child

FEW = 4  # with fewer distinct values than 1 / FEW of all, counting them is quicker than drawing each
EXACT_FLIPS = 16  # up to this many differing pairs, the sign-flip test enumerates all 2^n assignments


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Interval of a success rate by Wilson's score method (1927).

    centre = (p + z^2/2n) / (1 + z^2/n), half = z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n), with p = successes/trials.
    Raises ValueError unless 0 <= successes <= trials and trials >= 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"wanted 0 <= successes <= trials and trials >= 1; got {successes} of {trials}")
    return wilson_of_rate(successes / trials, trials, confidence=confidence)


def wilson_of_rate(rate: float, trials: float, *, confidence: float = 0.95) -> Interval:
    """Wilson's interval for a rate between 0 and 1 seen in `trials` independent trials, which need not be whole."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    shrink = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / shrink
    # the ends are exactly 0 and 1 in closed form; rounding must not move them
    low = 0.0 if rate == 0 else centre - half
    high = 1.0 if rate == 1 else centre + half
    return Interval(low, high)


def student_quantile(confidence: float, degrees: int) -> float:
    """t such that a Student variable with this many degrees of freedom (>= 1) lies within +-t with this probability."""
    low, high = 0.0, 1.0
    while within_student(high, degrees) < confidence:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if within_student(middle, degrees) < confidence else (low, middle)
    return (low + high) / 2


def within_student(t: float, degrees: int) -> float:
    """P[|T| <= t] of a Student variable: the finite sum that whole degrees of freedom (>= 1) have.

    Abramowitz and Stegun 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = cosine if odd else 1.0, 0.0
    for power in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine * cosine * (power - 1) / power
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p-value that gained and lost pairs are equally likely (McNemar's test, exact binomial form).

    gained: pairs that went wrong -> right; lost: right -> wrong. p = min(1, 2 P[X <= min(gained, lost)]) with
    X ~ Binomial(gained + lost, 1/2); 1 when no pair differs.
    """
    total, fewer = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(math.comb(total, k) for k in range(fewer + 1)) / 2**total)


def sign_flip_test(differences: Sequence[float], *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value that paired differences are symmetric around 0 (randomisation of their signs).

    All 2^n sign assignments are enumerated for up to 16 non-zero differences; beyond that `draws` random ones are
    taken and the observed one is counted with them (so that p is never 0). Returns 1 when every difference is 0.
    """
    values = np.asarray([value for value in differences if value != 0], dtype=np.float64)
    if values.size == 0:
        return 1.0
    observed = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    if values.size <= EXACT_FLIPS:
        codes = np.arange(2**values.size)[:, None] >> np.arange(values.size)
        sums = (1 - 2 * (codes & 1)) @ values
        return float(np.mean(np.abs(sums) >= observed))
    random = Generator(Philox(key=child(seed, "sign_flip_test")))
    sizes, counts = np.unique(np.abs(values), return_counts=True)
    chunks = _chunks(draws, values.size)
    sums = np.concatenate([_flipped_sums(random, values, sizes, counts, size) for size in chunks])
    return float((1 + np.sum(np.abs(sums) >= observed)) / (1 + draws))


def paired_bootstrap(
    differences: Sequence[float], *, draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile interval of the mean difference when tasks are drawn again with replacement.

    differences: after minus before, one per task (the mean over samples where a task has several, which makes the
    tasks the clusters). The same differences and seed give the same interval. Raises ValueError without differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0:
        raise ValueError("a bootstrap needs at least one difference")
    random = Generator(Philox(key=child(seed, "paired_bootstrap")))
    distinct, counts = np.unique(values, return_counts=True)
    chunks = _chunks(draws, values.size)
    means = np.concatenate([_drawn_sums(random, values, distinct, counts, size) for size in chunks]) / values.size
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def minimum_detectable_effect(
    tasks: int, *, spread: float = 0.3, power: float = 0.8, significance: float = 0.05
) -> float:
    """Smallest true mean difference that a paired two-sided test on `tasks` tasks finds with this power.

    (z[1 - significance/2] + z[power]) sqrt(spread / tasks). spread: mean squared difference of a pair, which for
    right/wrong answers is the share of tasks whose answer differs. 1,319 tasks at 0.15 give 3.0 points.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - significance / 2) + normal.inv_cdf(power)) * math.sqrt(spread / tasks)


def _chunks(draws: int, width: int, *, cells: int = 1_000_000) -> list[int]:
    """`draws` split so that a chunk of rows of this width stays small in memory."""
    size = max(1, cells // width)
    return [min(size, draws - start) for start in range(0, draws, size)]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for testing all of them at once, by Holm's method (1979), in the order given.

    Rejecting where the adjusted value is below alpha keeps the chance of any false alarm at or below alpha, whatever
    the dependence: adjusted p of the i-th smallest of m = max over j <= i of min(1, (m - j + 1) p_j).
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _flipped_sums(
    random: Generator, values: np.ndarray, sizes: np.ndarray, counts: np.ndarray, draws: int
) -> np.ndarray:
    """Sums of `values` with random signs. Of m equal sizes the number that stays positive is binomial."""
    if FEW * sizes.size > values.size:
        return (2.0 * random.integers(2, size=(draws, values.size), dtype=np.int8) - 1) @ values
    return (2 * random.binomial(counts, 0.5, size=(draws, sizes.size)) - counts) @ sizes


def _drawn_sums(
    random: Generator, values: np.ndarray, distinct: np.ndarray, counts: np.ndarray, draws: int
) -> np.ndarray:
    """Sums of as many values drawn with replacement. How often each distinct value is drawn is multinomial."""
    if FEW * distinct.size > values.size:
        return values[random.integers(values.size, size=(draws, values.size))].sum(axis=1)
    return random.multinomial(values.size, counts / values.size, size=draws) @ distinct
