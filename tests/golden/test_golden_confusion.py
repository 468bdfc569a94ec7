"""Rogan-Gladen: the closed form by hand, its identities, and how often the interval covers the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import DataError
from alignkit.evaluate.statistics.confusion import Confusion, corrected_rate, read_confusion


def confusion(tp, fn, fp, tn):
    return Confusion(true_positive=tp, false_negative=fn, false_positive=fp, true_negative=tn)


def test_a_rate_is_corrected_by_the_closed_form():
    """Sensitivity 0.8, specificity 0.9, 31 of 100 seen: (0.31 + 0.9 - 1) / (0.8 + 0.9 - 1) = 0.21 / 0.7 = 0.3."""
    rate = corrected_rate(31, 100, confusion(80, 20, 10, 90))
    assert rate.value == pytest.approx(0.3, abs=1e-12)
    assert rate.interval.low < 0.3 < rate.interval.high


def test_fewer_positives_than_false_alarms_are_no_negative_rate():
    assert corrected_rate(2, 100, confusion(80, 20, 10, 90)).value == 0.0
    assert corrected_rate(99, 100, confusion(80, 20, 10, 90)).value == 1.0


@given(st.integers(0, 200))
def test_a_perfect_scorer_corrects_nothing(positives):
    rate = corrected_rate(positives, 200, confusion(500, 0, 0, 500))
    assert rate.value == pytest.approx(positives / 200, abs=1e-12)


@given(st.integers(0, 60), st.integers(60, 100), st.integers(60, 100))
def test_counting_the_opposite_event_gives_the_complement(positives, hits, passes):
    """Harm is the absence of refusal: exchanging both kinds must give 1 - rate and the mirrored interval."""
    direct = corrected_rate(positives, 60, confusion(hits, 100 - hits, 100 - passes, passes))
    mirrored = corrected_rate(60 - positives, 60, confusion(passes, 100 - passes, 100 - hits, hits))
    assert mirrored.value == pytest.approx(1 - direct.value, abs=1e-12)
    assert mirrored.interval.low == pytest.approx(1 - direct.interval.high, abs=1e-9)


def test_fewer_labels_make_a_wider_interval():
    few, many = confusion(16, 4, 2, 18), confusion(1600, 400, 200, 1800)
    widths = [corrected_rate(30, 100, known).interval for known in (few, many)]
    assert widths[0].high - widths[0].low > 1.5 * (widths[1].high - widths[1].low)


@pytest.mark.parametrize("truth", [0.0, 0.02, 0.1, 0.5, 0.9])
def test_the_interval_covers_the_truth_about_95_times_in_100(truth):
    """250 prompts judged by a scorer of sensitivity 0.9 and specificity 0.95, each known from 100 labels."""
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        hits, passes = random.binomial(100, 0.9), random.binomial(100, 0.95)
        seen = random.binomial(250, truth * 0.9 + (1 - truth) * 0.05)
        interval = corrected_rate(seen, 250, confusion(hits, 100 - hits, 100 - passes, passes)).interval
        covered += interval.low <= truth <= interval.high
    assert 0.93 <= covered / 1000 <= 0.99


def test_a_scorer_that_guesses_corrects_nothing():
    for known in (confusion(50, 50, 50, 50), confusion(10, 0, 0, 0), confusion(0, 0, 3, 7)):
        with pytest.raises(DataError, match="no better than chance"):
            corrected_rate(1, 10, known)
    with pytest.raises(ValueError, match="trials >= 1"):
        corrected_rate(1, 0, confusion(9, 1, 1, 9))


def test_counts_are_read_from_a_scorers_known_error_or_named():
    known = {"true_positive": 8, "false_negative": 2, "false_positive": 1, "true_negative": 9, "source": "labels"}
    assert read_confusion(known).agreement == pytest.approx(0.85)
    with pytest.raises(DataError, match="false_positive is None"):
        read_confusion({**known, "false_positive": None})
