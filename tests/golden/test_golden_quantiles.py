"""Quantile regression: pinball by hand, sample quantiles recovered, missing labels, no crossing, the gated mix."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from alignkit.ops import quantiles, risk

THREE = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_pinball_at_a_gap_of_one_either_way():
    zero = torch.zeros(1, dtype=torch.float64)
    for tau, above, below in ((0.05, 0.05, 0.95), (0.5, 0.5, 0.5), (0.95, 0.95, 0.05)):
        at = torch.tensor([tau], dtype=torch.float64)
        assert quantiles.pinball(zero, torch.tensor(1.0).double(), at).item() == pytest.approx(above)
        assert quantiles.pinball(zero, torch.tensor(-1.0).double(), at).item() == pytest.approx(below)


def test_pinball_is_the_mean_over_levels():
    loss = quantiles.pinball(torch.tensor([[0.0, 1, 2]]).double(), torch.tensor([1.5]).double(), THREE)
    assert loss.item() == pytest.approx((1.5 * 0.05 + 0.5 * 0.5 + 0.5 * 0.05) / 3)


def test_a_missing_label_costs_nothing_and_pulls_nowhere():
    heads = torch.zeros(2, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0, math.nan], [math.nan, -1.0]]).double()
    loss = quantiles.pinball(heads, labels, THREE)
    assert loss.flatten().tolist() == pytest.approx([0.5, 0, 0, 0.5])
    (slope,) = torch.autograd.grad(loss.sum(), heads)
    assert slope[0, 1].tolist() == slope[1, 0].tolist() == [0, 0, 0]
    assert slope[0, 0].tolist() == pytest.approx([-0.05 / 3, -0.5 / 3, -0.95 / 3])


def test_the_least_pinball_loss_is_at_the_quantiles_of_a_two_humped_sample():
    humps = torch.randn(5000, dtype=torch.float64, generator=seeded())
    sample = torch.where(torch.rand(5000, generator=seeded(1)) < 0.3, 0.5 * humps - 2, 0.8 * humps + 1)
    at = quantiles.levels(9).double()
    raw = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    for _ in range(800):
        optimizer.zero_grad()
        quantiles.pinball(quantiles.monotone(raw).expand(5000, 9), sample, at).mean().backward()
        optimizer.step()
        schedule.step()
    fitted = quantiles.monotone(raw.detach())
    assert (fitted - torch.quantile(sample, at)).abs().max() < 0.03
    below = (sample[:, None] < fitted).double().mean(0)
    assert ((below - at).abs() < 2 * (at * (1 - at) / 5000).sqrt() + 1e-3).all()


def test_levels_are_evenly_spaced_inside_zero_and_one():
    assert quantiles.levels(3).tolist() == pytest.approx([0.25, 0.5, 0.75])


def test_monotone_quantiles_never_cross_whatever_the_head_says():
    raw = torch.randn(100, 19, dtype=torch.float64, generator=seeded()) * 5
    assert quantiles.crossing_rate(quantiles.monotone(raw)).max() == 0
    assert quantiles.crossing_rate(raw).min() > 0
    by_hand = quantiles.monotone(torch.tensor([-3.0, 0.0, 1.0]).double())
    assert by_hand.tolist() == pytest.approx([-3, -3 + math.log(2) / 3, -3 + (math.log(2) + math.log1p(math.e)) / 3])


def test_the_crossing_rate_counts_neighbours_that_fall():
    rows = torch.tensor([[0.0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [1, 1, 1, 1]])
    assert quantiles.crossing_rate(rows).tolist() == pytest.approx([0, 1 / 3, 1, 0])
    assert quantiles.crossing_rate(rows[:, :1]).tolist() == [0, 0, 0, 0]


def test_two_attributes_mix_level_by_level():
    """q1 = (0, 1, 2), q2 = (-2, 0, 4), gate (.25, .75): (-1.5, .25, 3.5), mean .75 in either order."""
    both = torch.tensor([[[0.0, 1, 2], [-2, 0, 4]]])
    gate = torch.tensor([[0.25, 0.75]])
    mixed = quantiles.mix(gate, both)
    assert mixed.tolist() == [[-1.5, 0.25, 3.5]]
    assert risk.mean(mixed).item() == (gate * risk.mean(both)).sum().item() == 0.75


def test_slopes_are_those_of_finite_differences():
    raw = torch.randn(4, 2, 3, dtype=torch.float64, generator=seeded(2), requires_grad=True)
    gate = torch.rand(4, 2, dtype=torch.float64, generator=seeded(3), requires_grad=True)
    labels = torch.randn(4, dtype=torch.float64, generator=seeded(4))
    assert gradcheck(
        lambda q, g: quantiles.pinball(quantiles.mix(g, quantiles.monotone(q)), labels, THREE), (raw, gate)
    )


def test_a_single_level_never_crosses_whatever_the_shape():
    assert quantiles.crossing_rate(torch.zeros(2, 3, 1)).tolist() == [[0.0] * 3] * 2
    assert quantiles.crossing_rate(torch.tensor([2.0, 1.0, 3.0])).item() == 0.5
