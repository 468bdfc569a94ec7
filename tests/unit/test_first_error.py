"""Where solutions first go wrong: counts by hand, guessing, thresholds that generalise, areas over whole solutions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import Generator, Philox

from alignkit.evaluate.statistics.first_error import (
    best_first_error_threshold,
    first_below,
    first_error,
    first_wrong,
    step_auc,
    step_f1,
)


def test_the_first_error_of_a_solution():
    assert first_below([0.9, 0.4, 0.2], 0.5) == 1
    assert first_below([0.9, 0.5], 0.5) == -1
    assert first_wrong([True, True, False, False]) == 2
    assert first_wrong([True, True]) == -1


def test_f1_is_the_harmonic_mean_of_two_accuracies():
    """3 of 4 first errors found, 1 of 2 right solutions let pass: 2 * .75 * .5 / 1.25 = .6."""
    told = first_error([0, 2, 1, 3, -1, 0], [0, 2, 1, 1, -1, -1])
    assert told.erroneous["value"] == 0.75
    assert told.correct["value"] == 0.5
    assert told.f1["value"] == pytest.approx(0.6)
    assert told.f1["low"] < 0.6 < told.f1["high"]
    assert told.f1["n"] == 6


def test_saying_always_or_never_that_something_is_wrong_is_worth_nothing():
    truth = [0, 1, 2, -1, -1]
    assert first_error([-1] * 5, truth).f1["value"] == 0
    assert first_error([0] * 5, truth).f1["value"] == 0


def test_without_one_kind_of_solutions_there_is_no_f1_but_a_cause():
    told = first_error([0, 1], [0, 0])
    assert told.f1["value"] is None
    assert told.f1["cause"] == "no solution without an error"
    assert told.erroneous["value"] == 0.5


def made(count: int, noise: float, seed: int = 0) -> tuple[list[list[float]], list[list[bool]]]:
    """Solutions of five steps, half of them wrong from a random step on; right steps score 3, wrong ones 2."""
    random = Generator(Philox(key=seed))
    scores, right = [], []
    for _ in range(count):
        wrong = int(random.integers(5)) if random.random() < 0.5 else 5
        right.append([step < wrong for step in range(5)])
        scores.append([2.0 + (step < wrong) + noise * random.normal() for step in range(5)])
    return scores, right


def test_a_threshold_chosen_on_some_solutions_serves_others():
    scores, right = made(600, noise=0.2)
    truth = [first_wrong(one) for one in right]
    threshold = best_first_error_threshold(scores[:300], truth[:300])
    assert 2.3 < threshold < 2.7
    told = first_error([first_below(one, threshold) for one in scores[300:]], truth[300:])
    assert told.f1["value"] > 0.9
    worse = first_error([first_below(one, 2.9) for one in scores[300:]], truth[300:])
    assert worse.f1["high"] < told.f1["low"]


def test_the_area_counts_every_step_and_its_interval_whole_solutions():
    scores, right = made(200, noise=0.7)
    told = step_auc(scores, right)
    assert told["low"] < told["value"] < told["high"]
    assert told["n"] == 1000
    # two scores one apart, each with noise 0.7: Phi(1 / (0.7 sqrt 2)) = 0.844
    assert told["value"] == pytest.approx(0.844, abs=0.03)
    # a solution repeated says nothing new: naive intervals would shrink by the root of ten
    again = step_auc([one * 10 for one in scores], [one * 10 for one in right])
    assert again["high"] - again["low"] > 0.7 * (told["high"] - told["low"])
    assert step_auc([[1.0, 2.0]], [[True, True]])["cause"] == "all steps are right, or all wrong"


def test_f1_of_right_and_wrong_steps():
    """Three are said to be right and three are, two of them the same; the one said to be wrong is not."""
    told = step_f1([[0.9, 0.8], [0.7, 0.1]], [[True, True], [False, True]], 0.5)
    assert told == {"right": pytest.approx(2 * 2 / 6), "wrong": 0.0, "mean": pytest.approx(1 / 3)}
    assert np.isclose(step_f1([[0.9, 0.1]], [[True, False]], 0.5)["mean"], 1)
