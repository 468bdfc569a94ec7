"""Group statistics on groups of any size and order."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit import ops

rewards_and_groups = st.lists(st.tuples(st.floats(-10, 10, width=32), st.integers(-3, 4)), min_size=1, max_size=30).map(
    lambda pairs: (torch.tensor([r for r, _ in pairs]), torch.tensor([g for _, g in pairs]))
)


def members(group: torch.Tensor, number: int) -> list[int]:
    return (group == group[number]).nonzero().flatten().tolist()


@given(rewards_and_groups)
def test_each_group_has_the_mean_and_deviation_that_the_statistics_module_gives(case):
    values, group = case
    mean, std = ops.groups.mean(values, group), ops.groups.std(values, group)
    for number in range(len(values)):
        own = values[members(group, number)].tolist()
        assert mean[number].item() == pytest.approx(statistics.fmean(own), abs=1e-5)
        assert std[number].item() == pytest.approx(statistics.stdev(own) if len(own) > 1 else 0.0, abs=1e-4)


@given(rewards_and_groups)
def test_leave_one_out_compares_each_value_with_the_mean_of_the_others(case):
    values, group = case
    got = ops.groups.leave_one_out(values, group)
    for number in range(len(values)):
        others = values[[m for m in members(group, number) if m != number]].tolist()
        wanted = values[number].item() - statistics.fmean(others) if others else 0.0
        assert got[number].item() == pytest.approx(wanted, abs=1e-4)


@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 9))
def test_equal_rewards_centre_to_exactly_zero(value, size):
    """Rounding must not leave a signal where there is none: one tenth, three times over, is not its own mean."""
    values, group = torch.full((size,), value), torch.zeros(size, dtype=torch.long)
    assert ops.groups.centre(values, group).tolist() == [0.0] * size
    assert ops.groups.std(values, group).tolist() == [0.0] * size


@given(rewards_and_groups, st.floats(0.5, 4, width=32), st.floats(-5, 5, width=32))
def test_advantages_scaled_by_the_group_ignore_an_affine_change_of_the_reward(case, factor, shift):
    values, group = case
    values = values.double().round(decimals=3)
    std = ops.groups.std(values, group)
    changed = factor * values + shift
    for number in range(len(values)):
        if std[number] > 1e-3:
            before = (ops.groups.centre(values, group) / std)[number].item()
            after = (ops.groups.centre(changed, group) / ops.groups.std(changed, group))[number].item()
            assert after == pytest.approx(before, abs=1e-6)
