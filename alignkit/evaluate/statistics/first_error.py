"""Process rewards against labelled steps: where a solution first goes wrong, as ProcessBench asks (2412.06559)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TypeVar

import numpy as np
from numpy.random import Generator, Philox

from alignkit.evaluate.benchmark.metrics import Number, absent, rate
from alignkit.evaluate.statistics.separation import auc
from alignkit.types.seeds import child

Value = TypeVar("Value")
NONE = -1  # the place of the first error of a solution without any
DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstError:
    """f1: harmonic mean of the other two. erroneous: share of the solutions with an error whose first one was found.
    correct: share of those without one in which none was found."""

    f1: Number
    erroneous: Number
    correct: Number


def first_below(scores: Sequence[float], threshold: float) -> int:
    """Place of the first step that scores below the threshold, from 0; -1 where none does."""
    return next((place for place, score in enumerate(scores) if score < threshold), NONE)


def first_wrong(labels: Sequence[bool]) -> int:
    """Place of the first step that is not right; -1 where all are."""
    return next((place for place, right in enumerate(labels) if not right), NONE)


def first_error(found: Sequence[int], truth: Sequence[int], *, seed: int = 0) -> FirstError:
    """How well first errors were found; a place must be exact. The interval of f1 is a bootstrap over solutions.

    Values are None with a cause where there are no solutions of one kind.
    """
    hits, erroneous = np.equal(found, truth), np.not_equal(truth, NONE)
    sides = [
        rate(int(hits[kind].sum()), int(kind.sum()), cause=f"no solution {what} an error")
        for kind, what in ((erroneous, "with"), (~erroneous, "without"))
    ]
    missing = next((side for side in sides if side["value"] is None), None)
    if missing is not None:
        return FirstError(f1=absent(missing["cause"]), erroneous=sides[0], correct=sides[1])
    random = Generator(Philox(key=child(seed, "first_error")))
    drawn = [random.binomial(side["n"], side["value"], size=DRAWS) / side["n"] for side in sides]
    low, high = np.quantile(_harmonic(*drawn), [0.025, 0.975])
    value = float(_harmonic(*(np.array(side["value"]) for side in sides)))
    f1: Number = {"value": value, "low": float(low), "high": float(high), "n": len(hits), "unit": "share"}
    return FirstError(f1=f1, erroneous=sides[0], correct=sides[1])


def best_first_error_threshold(scores: Sequence[Sequence[float]], truth: Sequence[int]) -> float:
    """The threshold with the best f1, midway between two scores: to be chosen on other solutions than it is used on.

    Raises ValueError without scores.
    """
    values = sorted({score for solution in scores for score in solution})
    if not values:
        raise ValueError("a threshold needs at least one score")
    values = [values[round(place)] for place in np.linspace(0, len(values) - 1, min(len(values), 200))]
    candidates = [values[0], *((low + high) / 2 for low, high in pairwise(values))]
    wrong = np.not_equal(truth, NONE)

    def f1(threshold: float) -> float:
        hits = np.equal([first_below(solution, threshold) for solution in scores], truth)
        shares = [hits[kind].mean() if kind.any() else np.array(0.0) for kind in (wrong, ~wrong)]
        return float(_harmonic(*shares))

    return max(candidates, key=f1)


def step_auc(scores: Sequence[Sequence[float]], right: Sequence[Sequence[bool]], *, seed: int = 0) -> Number:
    """Chance that a right step scores above a wrong one, over all solutions; the interval draws whole solutions."""
    area = auc(_flat(scores), _flat(right))
    if area is None:
        return absent("all steps are right, or all wrong")
    random, areas = Generator(Philox(key=child(seed, "step_auc"))), []
    for _ in range(DRAWS):
        rows = random.integers(len(scores), size=len(scores))
        drawn = auc(_flat([scores[row] for row in rows]), _flat([right[row] for row in rows]))
        areas += [] if drawn is None else [drawn]
    low, high = np.quantile(areas, [0.025, 0.975])
    return {"value": area, "low": float(low), "high": float(high), "n": sum(map(len, scores)), "unit": "area"}


def step_f1(scores: Sequence[Sequence[float]], right: Sequence[Sequence[bool]], threshold: float) -> dict[str, float]:
    """F1 of the right steps and of the wrong ones (PRMBench's positive and negative), and their mean; 0 for none."""
    said, truth = np.array(_flat(scores)) >= threshold, np.array(_flat(right), dtype=bool)
    both = [2 * np.sum(a & b) / max(np.sum(a) + np.sum(b), 1) for a, b in ((said, truth), (~said, ~truth))]
    return {"right": float(both[0]), "wrong": float(both[1]), "mean": float(np.mean(both))}


def _flat(rows: Sequence[Sequence[Value]]) -> list[Value]:
    return list(chain.from_iterable(rows))


def _harmonic(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    total = np.asarray(one + other, dtype=np.float64)
    return np.where(total > 0, 2 * one * other / np.where(total > 0, total, 1), 0.0)
