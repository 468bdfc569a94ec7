"""ROC, AUC, thresholds, calibration and agreement against hand computation, enumeration and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.evaluate.statistics.separation import (
    auc,
    auc_interval,
    best_threshold,
    calibration,
    kappa,
    kendall,
    roc,
    spearman,
)

rows = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30)


def split(pairs):
    return [float(score) for score, _ in pairs], [right for _, right in pairs]


@given(rows)
def test_auc_is_the_share_of_pairs_in_the_right_order_and_the_area_under_the_roc(pairs):
    scores, right = split(pairs)
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, good in pairs if good for b, bad in pairs if not bad]
    if not wins:
        assert auc(scores, right) is None
        return
    assert auc(scores, right) == pytest.approx(sum(wins) / len(wins))
    points = np.array(roc(scores, right))
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(auc(scores, right))
    assert tuple(points[0]) == (0, 0)
    assert tuple(points[-1]) == (1, 1)
    assert (np.diff(points, axis=0) >= 0).all()


@given(rows)
def test_the_threshold_is_the_best_of_all(pairs):
    scores, right = split(pairs)
    if len(set(right)) < 2:
        return

    def balanced(threshold):
        accepted = [score >= threshold for score in scores]
        good = [a for a, label in zip(accepted, right, strict=True) if label]
        bad = [not a for a, label in zip(accepted, right, strict=True) if not label]
        return np.mean(good) + np.mean(bad)

    best = max(balanced(threshold) for threshold in {*scores, -1.0, 99.0} - {99.0})
    assert balanced(best_threshold(scores, right)) == pytest.approx(max(best, 1.0))


def test_it_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.Generator(np.random.Philox(key=1))
    right = random.random(400) < 0.3
    scores = np.round(random.normal(size=400) + right, 1)
    assert auc(scores, right) == pytest.approx(metrics.roc_auc_score(right, scores))
    other = scores + random.normal(size=400) > 0.5
    assert kappa(right, other) == pytest.approx(metrics.cohen_kappa_score(right, other))
    probabilities = 1 / (1 + np.exp(-scores))
    assert calibration(probabilities, right).brier == pytest.approx(metrics.brier_score_loss(right, probabilities))


def test_intervals_of_an_area_hold_their_promise():
    """Newcombe's method 5 covers about 95 %, and does not call three right rows a certainty."""
    assert auc_interval(1.0, 3, 3).low < 0.7
    assert auc_interval(1.0, 3, 3).high == 1
    assert auc_interval(0.0, 3, 3).low == 0
    inside = 0
    truth = 0.5 * (1 + math.erf(1 / 2))  # N(1, 1) against N(0, 1)
    random = np.random.Generator(np.random.Philox(key=3))
    for _ in range(400):
        scores = [*random.normal(1, 1, 30), *random.normal(0, 1, 40)]
        interval = auc_interval(auc(scores, [True] * 30 + [False] * 40), 30, 40)
        inside += interval.low <= truth <= interval.high
    assert 0.92 <= inside / 400 <= 0.985


def test_calibration_by_hand():
    """Four rows at .25 of which one is right, four at .75 of which two are: gaps 0 and .25."""
    found = calibration([0.25] * 4 + [0.75] * 4, [True, False, False, False, True, True, False, False], bins=2)
    assert [(one.count, one.mean, one.right) for one in found.bins] == [(4, 0.25, 0.25), (4, 0.75, 0.5)]
    assert found.error == pytest.approx(0.125)
    assert found.brier == pytest.approx((0.5625 + 3 * 0.0625 + 2 * 0.0625 + 2 * 0.5625) / 8)


def test_equal_probabilities_share_a_bin_and_honest_ones_are_calibrated():
    assert len(calibration([0.5] * 100, [True] * 100).bins) == 1
    random = np.random.Generator(np.random.Philox(key=2))
    probabilities = random.random(20_000)
    assert calibration(probabilities, random.random(20_000) < probabilities).error < 0.02
    assert calibration(probabilities**3, random.random(20_000) < probabilities).error > 0.2


def test_agreement_by_hand():
    assert kappa([True, True, False, False], [True, False, False, False]) == pytest.approx(0.5)
    assert kappa([True], [True]) is None
    assert spearman([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
    assert spearman([1, 1], [1, 2]) is None


def test_kendall_s_tau_counts_pairs_and_forgives_ties():
    assert kendall([1, 2, 3], [10, 20, 15]) == pytest.approx(1 / 3)
    assert kendall([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # ordered: 5 pairs on the left, 4 on the right; 4 agree
    assert kendall([1, 1, 2, 3], [0, 0, 1, 1]) == pytest.approx(4 / math.sqrt(5 * 4))
    assert kendall([1, 1], [1, 2]) is None
