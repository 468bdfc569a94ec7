"""pass@k, G-Pass@k, majority@k, avg@k and Holm against scipy, enumeration of all subsets, and published values."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alignkit.evaluate.benchmark.many_samples import (
    avg_at_k,
    equivalence_classes,
    g_pass_at_k,
    majority_at_k,
    mean_g_pass_at_k,
    pass_at_k,
)
from alignkit.evaluate.statistics.statistics import holm, mcnemar_exact, student_quantile, wilson_interval

EXACT = 1e-12


def test_pass_at_k_gives_the_published_values():
    """16 samples, 4 right: 1 - C(12,4)/C(16,4) = 1 - 495/1820 = 0.728022; k = 8: 1 - 495/12870 = 0.961538."""
    assert pass_at_k(16, 4, 1) == 0.25
    assert pass_at_k(16, 4, 4) == pytest.approx(1 - 495 / 1820, abs=EXACT)
    assert pass_at_k(16, 4, 8) == pytest.approx(1 - 495 / 12870, abs=EXACT)
    assert pass_at_k(4, 3, 2) == 1.0


@given(st.integers(1, 300), st.data())
def test_pass_and_g_pass_are_tails_of_the_hypergeometric_distribution(samples, data):
    correct, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    threshold = data.draw(st.floats(0.01, 1.0))
    chosen = stats.hypergeom(samples, correct, k)
    assert pass_at_k(samples, correct, k) == pytest.approx(chosen.sf(0), abs=EXACT)
    needed = math.ceil(threshold * k - 1e-9)
    assert g_pass_at_k(samples, correct, k, threshold=threshold) == pytest.approx(chosen.sf(needed - 1), abs=EXACT)


def test_g_pass_runs_from_pass_at_k_to_all_k_right():
    """8 samples, 6 right, k = 4: at least one right is certain; all four right C(6,4)/C(8,4) = 15/70."""
    assert g_pass_at_k(8, 6, 4, threshold=0.25) == pass_at_k(8, 6, 4) == 1.0
    assert g_pass_at_k(8, 6, 4, threshold=1.0) == pytest.approx(15 / 70, abs=EXACT)
    # (2 / 4) (P[>= 3] + P[>= 4]); P[3] = C(6,3) C(2,1) / 70 = 40/70
    assert mean_g_pass_at_k(8, 6, 4) == pytest.approx(0.5 * (55 / 70 + 15 / 70), abs=EXACT)


def test_a_threshold_that_rounds_up_in_floating_point_needs_no_extra_sample():
    """0.7 * 10 = 7.000000000000001: seven right ones are enough."""
    assert g_pass_at_k(10, 7, 10, threshold=0.7) == 1.0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 2), st.data())
@settings(max_examples=60)
def test_the_majority_is_the_mean_over_all_subsets(counts, silent, data):
    """Votes of every subset of k samples are counted; ties give the share of right answers among the tied."""
    if sum(counts) + silent == 0:
        counts = [1]
    right = data.draw(st.lists(st.booleans(), min_size=len(counts), max_size=len(counts)))
    votes = [index for index, count in enumerate(counts) for _ in range(count)] + [None] * silent
    k = data.draw(st.integers(1, len(votes)))
    values = []
    for subset in itertools.combinations(votes, k):
        seen = Counter(vote for vote in subset if vote is not None)
        top = [vote for vote, number in seen.items() if number == max(seen.values())]
        values.append(sum(right[vote] for vote in top) / len(top) if top else 0.0)
    assert majority_at_k(counts, right, k, silent=silent) == pytest.approx(np.mean(values), abs=EXACT)


def test_the_majority_of_one_is_the_share_of_right_answers_and_of_all_is_the_vote():
    """2 of 5 right, against 2 and 1 of other answers: the vote of all five is a tie of two, worth a half."""
    assert majority_at_k([2, 2, 1], [True, False, False], 1) == pytest.approx(0.4, abs=EXACT)
    assert majority_at_k([2, 2, 1], [True, False, False], 5) == 0.5
    assert majority_at_k([3, 2], [True, False], 5) == 1.0
    assert majority_at_k([], [], 3, silent=3) == 0.0


def test_a_majority_of_256_samples_is_exact_and_quick():
    """Two answers, 160 right of 256: k = 255 leaves out one sample and right still wins every time."""
    assert majority_at_k([160, 96], [True, False], 255) == 1.0
    chosen = stats.hypergeom(256, 160, 64)
    expected = chosen.sf(32) + 0.5 * chosen.pmf(32)
    assert majority_at_k([160, 96], [True, False], 64) == pytest.approx(expected, abs=EXACT)


def test_equal_answers_share_a_class_and_missing_ones_have_none():
    same = {("1/2", "0.5"): True, ("0.5", "1/2"): True}
    answers = ["1/2", None, "3", "0.5", "3", "x"]
    assert equivalence_classes(answers, lambda first, second: same.get((first, second))) == [[0, 3], [2, 4], [5]]


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=5), min_size=2, max_size=12))
def test_the_clustered_error_is_that_of_task_means_when_tasks_are_equally_large(scores):
    size = min(len(group) for group in scores)
    groups = [group[:size] for group in scores]
    result = avg_at_k(groups)
    assert result.value == pytest.approx(np.mean(groups), abs=EXACT)
    assert result.standard_error == pytest.approx(stats.sem(np.mean(groups, axis=1)), abs=EXACT)


def test_the_clustered_error_of_unequal_tasks_is_worked_by_hand():
    """Tasks (1, 1, 0) and (0,): mean 1/2, residual sums 1/2 and -1/2; sqrt(2 * (1/4 + 1/4)) / 4 = 1/4."""
    result = avg_at_k([[1, 1, 0], [0], []])
    assert (result.value, result.standard_error, result.tasks, result.samples) == (0.5, 0.25, 2, 4)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_one_right_or_wrong_sample_a_task_gives_wilsons_interval(answers):
    interval, expected = (
        avg_at_k([[answer] for answer in answers]).interval,
        wilson_interval(sum(answers), len(answers)),
    )
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=EXACT)


def test_repeating_every_sample_adds_no_certainty():
    """Eight equal samples a task are one sample a task."""
    answers = [True] * 7 + [False] * 23
    one, two, eight = (avg_at_k([[a] * k for a in answers]) for k in (1, 2, 8))
    assert (eight.interval.low, eight.interval.high) == pytest.approx((two.interval.low, two.interval.high), abs=EXACT)
    assert eight.interval.low < one.interval.low < one.interval.high < eight.interval.high
    assert eight.standard_error == pytest.approx(one.standard_error, abs=EXACT)
    assert avg_at_k([[1.0] * 8] * 30).interval == wilson_interval(30, 30)
    assert avg_at_k([[2.0], [3.0]]).interval is None


def test_the_interval_of_30_tasks_with_8_samples_covers_the_truth():
    """AIME-like: tasks of very different difficulty. The truth is the mean difficulty of the whole population."""
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(600):
        chances = random.beta(0.5, 1.5, size=30)
        interval = avg_at_k(random.binomial(1, chances[:, None], size=(30, 8)).tolist()).interval
        covered += interval.low <= 0.25 <= interval.high
    assert 0.93 <= covered / 600 <= 0.985


def test_wilson_mcnemar_and_the_quantiles_of_student_are_scipys():
    for degrees in (1, 2, 3, 4, 29, 30, 1318):
        for confidence in (0.5, 0.95, 0.999):
            expected = stats.t.ppf(0.5 + confidence / 2, degrees)
            assert student_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-10)
    for successes, trials in ((0, 7), (5, 250), (654, 1319), (7, 7)):
        expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        interval = wilson_interval(successes, trials)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=EXACT)
    for gained, lost in ((40, 62), (10, 25), (3, 0)):
        expected = stats.binomtest(gained, gained + lost).pvalue
        assert mcnemar_exact(gained, lost) == pytest.approx(expected, abs=EXACT)


def test_holm_multiplies_by_the_number_of_tests_left_and_never_falls():
    """0.01, 0.04, 0.03 of three: 3 x 0.01; then 2 x 0.03 = 0.06; then 1 x 0.04, raised to 0.06."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06], abs=EXACT)
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """Oracle: the adjusted p is the largest Bonferroni p over all sets of hypotheses that contain it."""
    indices = range(len(p_values))
    sets = [chosen for size in range(1, len(p_values) + 1) for chosen in itertools.combinations(indices, size)]
    for index, adjusted in enumerate(holm(p_values)):
        worst = max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets if index in s)
        assert adjusted == pytest.approx(worst, abs=EXACT)


@pytest.mark.parametrize("call", [lambda: pass_at_k(4, 2, 5), lambda: g_pass_at_k(4, 5, 1, threshold=0.5)])
def test_impossible_counts_are_refused(call):
    with pytest.raises(ValueError, match="wanted 1 <= k"):
        call()
    with pytest.raises(ValueError, match="threshold"):
        g_pass_at_k(4, 2, 1, threshold=0.0)
    with pytest.raises(ValueError, match="one mark per count"):
        majority_at_k([2], [True], 3)
    with pytest.raises(ValueError, match="at least one scored sample"):
        avg_at_k([[]])
