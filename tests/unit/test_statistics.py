"""Statistics against numbers worked by hand, closed forms and full enumeration; the verdict against simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import DataError
from alignkit.evaluate.results.before_after import compare, compare_results, task_scores
from alignkit.evaluate.statistics.statistics import (
    mcnemar_exact,
    minimum_detectable_effect,
    paired_bootstrap,
    sign_flip_test,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(654, 1319, 0.4689, 0.5228), (5, 250, 0.0086, 0.0460), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_wilson_gives_the_published_intervals(successes, trials, low, high):
    """0 of 10: the upper end is z^2 / (n + z^2) = 3.8415 / 13.8415 = 0.27753."""
    interval = wilson_interval(successes, trials)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 400), st.data())
def test_wilson_ends_solve_the_score_equation(trials, data):
    """The ends are the rates q at which the observed rate is exactly z standard errors away: (p-q)^2 n = z^2 q(1-q)."""
    successes = data.draw(st.integers(0, trials))
    interval, rate, z = wilson_interval(successes, trials), successes / trials, 1.959963984540054
    for end in (interval.low, interval.high):
        assert (rate - end) ** 2 * trials == pytest.approx(z * z * end * (1 - end), abs=1e-9)
    assert 0 <= interval.low <= rate <= interval.high <= 1


def test_wilson_refuses_impossible_counts():
    for successes, trials in [(1, 0), (-1, 5), (6, 5)]:
        with pytest.raises(ValueError, match="wanted 0 <= successes <= trials"):
            wilson_interval(successes, trials)


def test_mcnemar_gives_the_published_p_values():
    """5 against 0: 2 / 2^5 = 1/16; 5 against 5 would be 1.25, so 1."""
    assert mcnemar_exact(40, 62) == pytest.approx(0.03707, abs=5e-6)
    assert mcnemar_exact(10, 25) == pytest.approx(0.01667, abs=5e-6)
    assert mcnemar_exact(5, 0) == 1 / 16
    assert mcnemar_exact(5, 5) == 1.0
    assert mcnemar_exact(0, 0) == 1.0


@given(st.integers(0, 6), st.integers(0, 6))
def test_mcnemar_equals_the_enumeration_of_all_outcomes(gained, lost):
    total = gained + lost
    outcomes = [sum(outcome) for outcome in itertools.product((0, 1), repeat=total)]
    as_extreme = [heads for heads in outcomes if abs(2 * heads - total) >= abs(gained - lost)]
    assert mcnemar_exact(gained, lost) == pytest.approx(len(as_extreme) / len(outcomes), abs=1e-12)
    assert mcnemar_exact(gained, lost) == mcnemar_exact(lost, gained)


def test_the_sign_flip_test_enumerates_small_samples():
    """Differences 1, 2, 3 (sum 6): of the 8 sign patterns only +++ and --- reach |sum| 6, so p = 2/8."""
    assert sign_flip_test([1.0, 2.0, 3.0]) == 0.25
    assert sign_flip_test([0.0, 0.0]) == 1.0
    assert sign_flip_test([0.1, 0.2, -0.3]) == 1.0  # the sum is 0 up to rounding, which every pattern reaches


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=14))
def test_the_sign_flip_test_of_right_or_wrong_is_mcnemar(differences):
    expected = mcnemar_exact(differences.count(1.0), differences.count(-1.0))
    assert sign_flip_test(differences) == pytest.approx(expected, abs=1e-12)


def test_the_random_sign_flip_test_agrees_with_the_exact_one():
    """20 gained and 6 lost: McNemar's p by the binomial sum; 10,000 draws come within 4 standard errors."""
    exact = mcnemar_exact(20, 6)
    drawn = sign_flip_test([1.0] * 20 + [-1.0] * 6, seed=3)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 10_000))
    assert drawn == sign_flip_test([1.0] * 20 + [-1.0] * 6, seed=3)


def test_the_bootstrap_of_two_tasks_has_the_quartiles_of_its_enumeration():
    """Differences 0 and 1: the resampled mean is 0, 1/2, 1 with chances 1/4, 1/2, 1/4, so 40 % lies at 1/2 exactly."""
    middle = paired_bootstrap([0.0, 1.0], confidence=0.4)
    whole = paired_bootstrap([0.0, 1.0], confidence=0.9)
    assert (middle.low, middle.high) == (0.5, 0.5)
    assert (whole.low, whole.high) == (0.0, 1.0)


def test_the_bootstrap_is_seeded_and_shifts_with_its_data():
    values = [0.0, 1.0, 1.0, -1.0, 0.5, 0.25]
    first, again, other = (paired_bootstrap(values, draws=40, seed=seed) for seed in (1, 1, 2))
    moved = paired_bootstrap([value + 10 for value in values], draws=40, seed=1)
    assert first == again
    assert first != other
    assert moved.low == pytest.approx(first.low + 10)
    with pytest.raises(ValueError, match="at least one"):
        paired_bootstrap([])


def test_the_bootstrap_covers_the_truth_93_to_97_times_in_100():
    random = np.random.default_rng(7)
    covered = 0
    for trial in range(2000):
        interval = paired_bootstrap(list(random.choice([-1, 0, 0, 1, 1], size=120)), draws=1000, seed=trial)
        covered += interval.low <= 0.2 <= interval.high
    assert 0.93 <= covered / 2000 <= 0.97


def test_few_distinct_values_and_many_are_drawn_to_the_same_distribution():
    """A jitter of 1e-9 makes every value distinct, so that each is drawn instead of counted: same interval, same p."""
    random = np.random.default_rng(3)
    few = random.choice([-1.0, 0.0, 1.0], p=[0.2, 0.5, 0.3], size=300)
    many = few + 1e-9 * random.standard_normal(300)
    intervals = [paired_bootstrap(list(values), draws=20_000) for values in (few, many)]
    assert intervals[0].low == pytest.approx(intervals[1].low, abs=0.005)
    assert intervals[0].high == pytest.approx(intervals[1].high, abs=0.005)
    p_values = [sign_flip_test(list(values[few != 0]), draws=20_000) for values in (few, many)]
    assert p_values[0] == pytest.approx(p_values[1], abs=0.3 * p_values[1])
    assert p_values[0] == pytest.approx(mcnemar_exact(int(sum(few == 1)), int(sum(few == -1))), abs=0.01)


@pytest.mark.parametrize(("tasks", "spread", "points"), [(1319, 0.15, 3.0), (1319, 0.30, 4.2), (500, 0.15, 4.9)])
def test_the_detectable_effect_is_that_of_the_published_table(tasks, spread, points):
    assert 100 * minimum_detectable_effect(tasks, spread=spread) == pytest.approx(points, abs=0.06)


def test_a_comparison_of_right_and_wrong_uses_mcnemar_and_says_better():
    """10 tasks: 1 right before, 8 after, all gained: p = 2 / 2^7 = 1/64."""
    comparison = compare([True] + [False] * 9, [True] * 8 + [False] * 2)
    assert comparison.difference == pytest.approx(0.7)
    assert comparison.p_value == 1 / 64
    assert comparison.before_interval == wilson_interval(1, 10)
    assert comparison.after_interval == wilson_interval(8, 10)
    assert comparison.verdict == "better"
    assert comparison.sentence.startswith("better: 0.100 -> 0.800 on 10 tasks (+0.700, 95 % interval +0.4")
    assert comparison.sentence.endswith("exact McNemar test p = 0.016)")
    assert compare([True] * 8 + [False] * 2, [True] + [False] * 9).verdict == "worse"


def test_fractions_are_compared_by_sign_flips():
    """Means over samples per task: 8 tasks each up by a quarter, p = 2 / 2^8."""
    comparison = compare([0.25] * 8, [0.5] * 8)
    assert comparison.test == "sign-flip test"
    assert comparison.p_value == 2 / 2**8
    assert comparison.before_interval is None
    assert (comparison.interval.low, comparison.interval.high) == (0.25, 0.25)


def test_no_change_says_what_could_have_been_seen():
    """30 tasks without a change: MDE = 2.8016 sqrt(0.15 / 30) = 0.198."""
    comparison = compare([True, False] * 15, [True, False] * 15)
    assert comparison.verdict == "no detectable change"
    assert comparison.sentence.endswith("30 tasks show differences from about 0.198 upwards")


def test_results_are_paired_by_task_and_unscorable_answers_leave():
    before = [{"task_id": "a", "correct": True}, {"task_id": "a", "correct": False}, {"task_id": "b", "correct": None}]
    after = [{"task_id": "b", "correct": True}, {"task_id": "a", "correct": True}, {"task_id": "c", "correct": False}]
    comparison, left_out = compare_results(before, after)
    assert task_scores(before) == {"a": 0.5}
    assert (comparison.before, comparison.after, comparison.tasks) == (0.5, 1.0, 1)
    assert left_out == 2
    with pytest.raises(DataError, match="share no scored task"):
        compare_results(before, [{"task_id": "z", "correct": True}])


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(DataError, match="at least 1; got 1 and 2"):
        compare([True], [True, False])
    with pytest.raises(DataError, match="got 0 and 0"):
        compare([], [])


def test_equal_policies_are_called_different_at_most_6_times_in_100():
    random = np.random.default_rng(11)
    alarms = 0
    for _ in range(500):
        chances = random.random(100)
        pair = [list(random.random(100) < chances) for _ in range(2)]
        alarms += compare(*pair, draws=20).verdict != "no detectable change"
    assert alarms <= 30


def test_a_change_of_the_detectable_size_is_found_about_8_times_in_10():
    """200 tasks, 30 % of pairs differ: the normal formula gives 10.9 points; the exact test is more careful."""
    effect, random = minimum_detectable_effect(200, spread=0.3), np.random.default_rng(13)
    chances = [0.15 - effect / 2, 0.7, 0.15 + effect / 2]
    found = 0
    for _ in range(400):
        differences = random.choice([-1, 0, 1], size=200, p=chances)
        before = [value == -1 for value in differences]
        after = [value == 1 for value in differences]
        found += compare(before, after, draws=20).verdict == "better"
    assert 0.70 <= found / 400 <= 0.88
