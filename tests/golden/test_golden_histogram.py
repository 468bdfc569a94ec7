"""HL-Gauss by hand: masses of bins from the error function, and the mean that they give back."""

from __future__ import annotations

import math

import pytest
import torch

from alignkit import ops

FOUR = ops.histogram.centres(4, 0.0, 4.0)


def phi(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def test_the_mass_of_a_bin_is_the_share_of_the_gaussian_in_it():
    """Bins of width 1 from 0 to 4, deviation 3/4, target 2: Phi(4/3) - 1/2 and Phi(8/3) - Phi(4/3), over the whole."""
    assert FOUR.tolist() == [0.5, 1.5, 2.5, 3.5]
    whole = 2 * phi(8 / 3) - 1
    outer, inner = (phi(8 / 3) - phi(4 / 3)) / whole, (phi(4 / 3) - 0.5) / whole
    got = ops.histogram.masses(torch.tensor([2.0, 1.0]), FOUR)
    assert (outer, inner) == pytest.approx((0.088055, 0.411945), abs=1e-6)
    assert got[0].tolist() == pytest.approx([outer, inner, inner, outer], abs=1e-6)
    parts = [phi(b / 0.75) - phi((b - 1) / 0.75) for b in (0, 1, 2, 3)]
    assert got[1].tolist() == pytest.approx([part / sum(parts) for part in parts], abs=1e-6)


def test_the_mean_is_the_target_inside_and_seven_tenths_of_a_bin_off_at_the_ends_and_beyond():
    centres = ops.histogram.centres(21, -3.0, 7.5).double()  # bins of 1/2
    inside = torch.linspace(-1.5, 6.0, 97, dtype=torch.float64)
    found = ops.histogram.masses(inside, centres) @ centres
    assert (found - inside).abs().max() < 2e-4 * 0.5
    at = ops.histogram.masses(torch.tensor([-3.0, -1e6, 7.5, 1e6], dtype=torch.float64), centres)
    assert at.sum(-1).tolist() == pytest.approx([1.0] * 4)
    # half a Gaussian on bins of one deviation and a third: 1/2 (0.8176) + 3/2 (0.1748) + 5/2 (0.0076) of a bin
    middles = [2 * (phi((b + 1) / 0.75) - phi(b / 0.75)) * (b + 0.5) for b in range(8)]
    assert sum(middles) == pytest.approx(0.69, abs=2e-3)
    off = sum(middles) / 2
    assert (at @ centres).tolist() == pytest.approx([-3 + off, -3 + off, 7.5 - off, 7.5 - off], abs=1e-6)


def test_cross_entropy_pulls_a_tilt_towards_the_mean_of_the_target():
    """Logits 0 of bins 1/2 3/2 5/2 3/2 have mean 2; tilted by t the slope of L is mean - target, here 2 - 5/4."""
    tilt = torch.zeros((), requires_grad=True)
    aim = torch.tensor(1.25)
    loss = ops.histogram.cross_entropy(torch.zeros(4) + tilt * FOUR, aim, FOUR)
    assert loss.item() == pytest.approx(math.log(4))
    (slope,) = torch.autograd.grad(loss, tilt)
    wanted = float(ops.histogram.masses(aim, FOUR) @ FOUR)
    assert slope.item() == pytest.approx(2 - wanted, abs=1e-6)
    logits = torch.tensor([0.0, 0.0, math.log(2), math.log(4)])
    assert ops.histogram.mean(logits, FOUR).item() == pytest.approx((0.5 + 1.5 + 2 * 2.5 + 4 * 3.5) / 8)
