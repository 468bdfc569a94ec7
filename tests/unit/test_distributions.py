"""Quality of predicted distributions: closed forms of the normal distribution, calibrated and broken models, edges."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from numpy.random import Generator, Philox

from alignkit.evaluate.statistics import distributions as dist
from alignkit.ops import quantiles as ops

NORMAL = NormalDist()


def normal_quantiles(count: int, means, spread: float = 1.0) -> np.ndarray:
    at = np.array([NORMAL.inv_cdf(level) for level in dist.levels(count)])
    return np.asarray(means)[:, None] + spread * at


def sample(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Means and labels drawn around them with standard deviation 1."""
    random = Generator(Philox(key=seed))
    means = 3 * random.normal(size=count)
    return means, means + random.normal(size=count)


@pytest.mark.parametrize("share", dist.SHARES)
def test_the_true_distribution_covers_what_it_promises_and_a_narrow_one_less(share):
    means, labels = sample(5000)
    told = dist.coverage(normal_quantiles(99, means), labels, share)
    assert told["value"] == pytest.approx(share, abs=0.02)
    assert told["low"] < share < told["high"]
    narrow = dist.coverage(normal_quantiles(99, means, spread=0.5), labels, share)
    assert narrow["value"] == pytest.approx(2 * NORMAL.cdf(NORMAL.inv_cdf((1 + share) / 2) / 2) - 1, abs=0.02)
    assert narrow["high"] < share


def test_levels_that_do_not_reach_far_enough_say_so():
    told = dist.coverage(normal_quantiles(19, [0.0]), [0.0], 0.95)
    assert told["value"] is None
    assert told["cause"] == "level 0.025 is beyond the outermost of 19 levels, 0.05"
    assert dist.coverage(normal_quantiles(39, [0.0]), [0.0], 0.95)["value"] == 1


def test_quantiles_between_levels_are_linear():
    rows = np.array([[0.0, 10, 40]])  # at .25, .5, .75
    for level, wanted in ((0.25, 0), (0.3, 2), (0.5, 10), (0.625, 25), (0.75, 40)):
        assert dist.quantile_at(rows, level) == pytest.approx(wanted)
    with pytest.raises(ValueError, match=r"level 0.8 is beyond the outermost of 3 levels"):
        dist.quantile_at(rows, 0.8)


def test_crps_of_quantiles_is_that_of_the_normal_distribution_they_are_of():
    means, labels = sample(2000)
    exact = dist.crps_gaussian(means, 1.0, labels)
    assert exact.mean() == pytest.approx(1 / math.sqrt(math.pi), abs=0.02)  # of the truth: s / sqrt(pi)
    for count, gap in ((19, 0.012), (99, 2e-3), (999, 2e-4)):
        assert dist.crps(normal_quantiles(count, means), labels).mean() == pytest.approx(exact.mean(), abs=gap)
    assert dist.crps_gaussian([0.0], 2.0, [0.0]).item() == pytest.approx(2 * 0.2336949772)


def test_crps_is_the_integral_over_the_distribution_function():
    """Integral of (F(x) - 1[x >= y])^2 over x, for a normal distribution and a label off its middle."""
    x = np.linspace(-12, 12, 200_001)
    cdf = np.array([NORMAL.cdf((value - 0.4) / 1.5) for value in x])
    integral = np.sum((cdf - (x >= 2.0)) ** 2) * (x[1] - x[0])
    assert dist.crps_gaussian([0.4], 1.5, [2.0]).item() == pytest.approx(integral, abs=1e-3)


def test_a_point_is_scored_by_its_absolute_error():
    assert dist.crps_gaussian([1.0, 2.0], 0.0, [1.5, -1.0]).tolist() == [0.5, 3.0]
    assert dist.crps(np.full((1, 999), 1.0), [3.0]).item() == pytest.approx(2, rel=2e-3)


def test_a_model_that_knows_where_it_is_unsure_beats_a_point_with_the_same_noise_everywhere():
    random = Generator(Philox(key=1))
    spreads = np.where(random.random(4000) < 0.5, 0.2, 3.0)
    labels = spreads * random.normal(size=4000)
    at = np.array([NORMAL.inv_cdf(level) for level in dist.levels(39)])
    wise = dist.crps(spreads[:, None] * at, labels)
    plain = dist.crps_gaussian(np.zeros(4000), float(labels.std()), labels)
    assert wise.mean() < 0.95 * plain.mean()
    told = dist.mean_score(wise - plain)
    assert told["low"] < told["value"] < told["high"] < 0


def test_crossing_quantiles_are_counted_and_do_not_break_the_other_numbers():
    rows = np.array([[0.0, 1, 2, 3], [0, 2, 1, 3]])
    told = dist.crossing_rate(rows)
    assert told["value"] == pytest.approx(1 / 6)
    assert told["value"] == pytest.approx(ops.crossing_rate(torch.tensor(rows)).mean().item())
    assert dist.crps(rows, [1.0, 1.0])[0] == dist.crps(rows, [1.0, 1.0])[1]
    assert dist.crossing_rate(rows[:, :1])["cause"] == "a single level cannot cross"


def test_crps_is_twice_the_pinball_loss_of_the_training_objective():
    random = Generator(Philox(key=2))
    rows, labels = np.sort(random.normal(size=(50, 9)), axis=1), random.normal(size=50)
    loss = ops.pinball(torch.tensor(rows), torch.tensor(labels), ops.levels(9).double())
    assert dist.crps(rows, labels) == pytest.approx(2 * 9 / 10 * loss.numpy())


def test_the_share_below_each_quantile_is_its_level_for_a_calibrated_model():
    means, labels = sample(5000)
    gaps = dist.below(normal_quantiles(9, means), labels) - dist.levels(9)
    assert np.abs(gaps).max() < 0.02
    wanted = [NORMAL.cdf(NORMAL.inv_cdf(level) + 1) for level in dist.levels(9)]
    assert dist.below(normal_quantiles(9, means + 1), labels) == pytest.approx(wanted, abs=0.02)
    assert dist.below(np.array([[1.0]]), [1.0]).tolist() == [0.5]
