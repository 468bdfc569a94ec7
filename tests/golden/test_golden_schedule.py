"""Learning rates at points computed by hand."""

import pytest

from alignkit.ops.schedule import learning_rate


def curve(**options) -> list[float]:
    return [learning_rate(step, peak=1.0, total=12, warmup=2, **options) for step in range(13)]


def test_warm_up_rises_to_the_peak_in_equal_steps_and_never_starts_at_zero():
    rates = [learning_rate(step, peak=8.0, total=10, warmup=4) for step in range(6)]
    assert rates == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_without_warm_up_the_first_step_has_the_peak():
    for shape in ("constant", "linear", "cosine"):
        assert learning_rate(0, peak=3.0, total=10, shape=shape) == 3.0


def test_linear_falls_evenly_to_its_final_fraction():
    assert curve(shape="linear") == pytest.approx([0.5, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0])
    assert curve(shape="linear", final_fraction=0.2)[2:] == pytest.approx([1 - 0.08 * i for i in range(11)])


def test_cosine_is_half_way_in_the_middle_and_ends_at_its_final_fraction():
    rates = curve(shape="cosine", final_fraction=0.1)
    assert rates[2] == 1.0
    assert rates[7] == pytest.approx(0.55)  # .1 + .9 / 2
    assert rates[12] == pytest.approx(0.1)
    assert rates[4] == pytest.approx(0.1 + 0.9 * (1 + 0.809017) / 2, abs=1e-6)  # cos(pi / 5)
    assert learning_rate(99, peak=1.0, total=12, warmup=2, shape="cosine", final_fraction=0.1) == pytest.approx(0.1)


def test_a_run_that_is_all_warm_up_has_no_division_by_zero():
    assert learning_rate(3, peak=1.0, total=3, warmup=3, shape="linear") == 1.0


def test_one_step_after_the_only_one_the_rate_is_the_final_one():
    assert learning_rate(1, peak=1.0, total=1, shape="linear", final_fraction=0.25) == 0.25
