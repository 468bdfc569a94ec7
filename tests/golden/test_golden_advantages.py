"""Whitening and masked statistics of (1, 2, 3, 4)."""

import math

import pytest
import torch

from alignkit import ops

VALUES = torch.tensor([1.0, math.nan, 2, 3, math.inf, 4])
MASK = torch.tensor([True, False, True, True, False, True])


def test_whitening_has_mean_0_and_population_variance_1_and_ignores_what_is_masked():
    assert ops.advantages.whiten(VALUES, MASK).tolist() == pytest.approx(
        [-1.341641, 0, -0.447214, 0.447214, 0, 1.341641], abs=1e-6
    )


def test_whitening_rewards_keeps_their_mean():
    """Mean 2.5 kept, variance 1: 2.5 +- 1.341641 and 2.5 +- 0.447214."""
    assert ops.advantages.whiten(VALUES, MASK, keep_mean=True)[MASK].tolist() == pytest.approx(
        [1.158359, 2.052786, 2.947214, 3.841641], abs=1e-6
    )


def test_variance_has_either_divisor_and_gives_the_unbiased_table():
    assert ops.advantages.var(VALUES, MASK).item() == pytest.approx(1.25)
    assert ops.advantages.var(VALUES, MASK, unbiased=True).item() == pytest.approx(5 / 3)
    unbiased = (VALUES[MASK] - 2.5) / ops.advantages.var(VALUES, MASK, unbiased=True).sqrt()
    assert unbiased.tolist() == pytest.approx([-1.161895, -0.387298, 0.387298, 1.161895], abs=1e-6)


def test_an_empty_mask_and_a_single_value_are_zero_not_nan():
    nothing = torch.zeros(6, dtype=torch.bool)
    assert ops.advantages.mean(VALUES, nothing).item() == 0
    assert ops.advantages.var(VALUES, nothing).item() == 0
    one = torch.arange(6) == 0
    assert ops.advantages.var(VALUES, one, unbiased=True).item() == 0
    assert ops.advantages.whiten(VALUES, one).tolist() == [0] * 6


def test_a_constant_shift_vanishes_after_whitening():
    shifted = ops.advantages.whiten(VALUES + 7, MASK)
    assert shifted.tolist() == pytest.approx(ops.advantages.whiten(VALUES, MASK).tolist(), abs=1e-5)


def test_the_unbiased_variance_of_one_and_three_is_2_and_the_other_1():
    values, both = torch.tensor([1.0, 3.0]), torch.tensor([True, True])
    assert ops.advantages.var(values, both, unbiased=True).item() == 2
    assert ops.advantages.var(values, both).item() == 1
