"""Risk functionals of quantiles, ensemble reducers and process returns: the sheet's numbers and their identities."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.ops import ensemble, process, risk

FIVE = torch.tensor([-2.0, -1, 0, 1, 2], dtype=torch.float64)
numbers = st.floats(-50, 50).map(lambda value: round(value, 3))
lists = st.lists(numbers, min_size=1, max_size=12).map(lambda values: torch.tensor(values, dtype=torch.float64))


def test_five_quantiles_have_the_sheet_s_numbers():
    assert risk.mean(FIVE).item() == 0
    assert risk.cvar(FIVE, 0.4).item() == pytest.approx(-1.5)
    assert risk.cvar(FIVE, 0.5).item() == pytest.approx((-2 - 1 + 0.5 * 0) / 2.5)
    assert risk.entropic(FIVE, 1.0).item() == pytest.approx(-0.842476, abs=1e-6)
    assert risk.low_quantile(FIVE, 1 / 6).item() == pytest.approx(-2)
    assert risk.low_quantile(FIVE, 0.25).item() == pytest.approx(-1.5)
    assert risk.mean_minus_std(FIVE, 0.5).item() == pytest.approx(-0.5 * math.sqrt(2))


def test_a_mixed_distribution_is_a_quantile_wise_sum():
    """QRM: two attributes with quantiles (0,1,2) and (-2,0,4), gates .25 and .75."""
    mixed = torch.tensor([0.25, 0.75]) @ torch.tensor([[0.0, 1, 2], [-2, 0, 4]])
    assert mixed.tolist() == [-1.5, 0.25, 3.5]
    assert risk.mean(mixed).item() == 0.75


def test_the_cautious_choice_flips_between_a_high_wide_and_a_low_narrow_arm():
    levels = (torch.arange(1, 200) / 200).double()
    normal = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double()).icdf(levels)
    wide, narrow = 1 + 3 * normal, 0.8 + 0.2 * normal
    assert risk.mean(wide) > risk.mean(narrow)
    for cautious in (lambda q: risk.cvar(q, 0.25), lambda q: risk.low_quantile(q, 0.1), lambda q: risk.entropic(q, 1)):
        assert cautious(wide) < cautious(narrow)
    gap = torch.tensor([(risk.cvar(wide, share) - risk.cvar(narrow, share)).item() for share in (0.8, 0.9, 0.95, 1.0)])
    assert (gap.diff() > 0).all()
    assert gap[0] < 0 < gap[-1]


@given(lists, st.floats(0.05, 1), st.floats(0.05, 1))
def test_cvar_rises_with_its_share_and_ends_at_the_mean(quantiles, one, other):
    low, high = sorted((one, other))
    assert risk.cvar(quantiles, low) <= risk.cvar(quantiles, high) + 1e-9
    assert risk.cvar(quantiles, 1.0).item() == pytest.approx(quantiles.mean().item(), abs=1e-9)
    assert risk.cvar(quantiles, low) >= quantiles.min() - 1e-9


@given(lists, st.floats(-20, 20), st.floats(0.01, 5))
def test_every_functional_moves_with_the_distribution(quantiles, shift, aversion):
    for functional in (
        risk.mean,
        lambda q: risk.cvar(q, 0.3),
        lambda q: risk.low_quantile(q, 0.3),
        lambda q: risk.entropic(q, aversion),
        lambda q: risk.mean_minus_std(q, aversion),
    ):
        assert functional(quantiles + shift).item() == pytest.approx(functional(quantiles).item() + shift, abs=1e-6)
    assert quantiles.min() - 1e-6 <= risk.entropic(quantiles, aversion) <= quantiles.mean() + 1e-6


def test_crossing_quantiles_count_as_sorted_and_nan_is_not_hidden_in_the_upper_tail():
    assert risk.cvar(FIVE.flip(0), 0.4).item() == pytest.approx(-1.5)
    broken = torch.tensor([[-1.0, 0, math.nan], [-1, 0, 1]])
    for functional in (lambda q: risk.cvar(q, 0.3), lambda q: risk.low_quantile(q, 0.2), lambda q: risk.entropic(q, 1)):
        assert functional(broken).isnan().tolist() == [True, False]


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_outside_its_range_is_an_error(share):
    with pytest.raises(ValueError, match="wanted a share"):
        risk.cvar(FIVE, share)


@pytest.mark.parametrize(
    ("reducer", "expected"),
    [("mean", 7 / 3), ("median", 2), ("worst", 1), ("mean_minus_variance", 1.5556), ("mean_minus_std", 1.0861)],
)
def test_members_one_two_four_have_the_sheet_s_numbers(reducer, expected):
    weight = 0.5 if reducer == "mean_minus_variance" else 1.0
    members = torch.tensor([[1.0], [2], [4]])
    assert ensemble.reduce(members, reducer, weight=weight).item() == pytest.approx(expected, abs=1e-4)


def test_disagreement_is_the_members_spread():
    assert ensemble.disagreement(torch.tensor([[1.0, 5], [2, 5], [4, 5]])).tolist() == pytest.approx([1.247219, 0])
    assert ensemble.reduce(torch.tensor([[1.0], [2], [4], [9]]), "median").item() == 3


def test_a_constant_per_prompt_changes_nothing_once_members_are_centred():
    """Bradley-Terry cannot see it, and the worst member would be decided by it."""
    group = torch.tensor([0, 0, 0, 1, 1])
    members = torch.tensor([[1.0, 2, 6, 0, 4], [2, 4, 3, 5, 1]])
    moved = members + torch.tensor([[10.0, 10, 10, -7, -7], [0, 0, 0, 3, 3]])
    for reducer in ("median", "worst", "mean_minus_variance", "mean_minus_std"):
        assert not torch.allclose(ensemble.reduce(members, reducer), ensemble.reduce(moved, reducer))
        same = [ensemble.reduce(ensemble.centre_members(m, group), reducer) for m in (members, moved)]
        torch.testing.assert_close(*same)


def test_independent_errors_are_survived_by_the_worst_member_and_shared_ones_by_nobody():
    """Best of n with proxies that overrate some bad answers: one proxy falls for its own errors, four rarely agree."""
    generator = torch.Generator().manual_seed(0)
    gold = torch.randn(400, 256, generator=generator)
    wrong = torch.rand(5, 400, 256, generator=generator) < 0.05
    members = gold + 4 * wrong + 0.3 * torch.randn(5, 400, 256, generator=generator)
    shared = gold + 4 * wrong[:1] + 0.3 * torch.randn(5, 400, 256, generator=generator)

    def picked(proxy):
        return gold.gather(1, proxy.argmax(1, keepdim=True)).mean().item()

    assert picked(ensemble.reduce(members, "worst")) > picked(members[0]) + 0.5
    assert picked(ensemble.reduce(members, "mean_minus_variance")) > picked(members[0]) + 0.5
    assert picked(ensemble.reduce(shared, "worst")) < picked(members[0]) + 0.25


STEPS = torch.tensor([0.9, 0.4, 0.8, 0.5], dtype=torch.float64)


@pytest.mark.parametrize(
    ("form", "returns"),
    [
        ("sum", [2.6, 1.7, 1.3, 0.5]),
        ("mean", [0.65, 0.425, 0.325, 0.125]),
        ("min_form", [0.4, 0.4, 0.5, 0.5]),
        ("difference", [0.5, -0.4, 0.1, -0.3]),
        ("last", [0.5, 0.5, 0.5, 0.5]),
        ("product", [0.144, -0.756, -0.216, -0.144]),
    ],
)
def test_the_return_of_a_step_under_each_form(form, returns):
    """By hand, for step scores .9 .4 .8 .5; the first number is what the response is worth."""
    assert process.step_returns(STEPS, form).tolist() == pytest.approx(returns)


@given(lists, st.sampled_from(["sum", "mean", "min_form", "difference", "last", "product"]))
def test_rewards_per_step_add_up_to_the_return_of_every_step(scores, form):
    scores = scores / 50
    torch.testing.assert_close(
        process.step_rewards(scores, form).flip(0).cumsum(0).flip(0), process.step_returns(scores, form)
    )


@given(lists)
def test_more_good_steps_raise_the_sum_and_never_the_min_form(scores):
    scores = scores.abs()
    padded = torch.cat([scores, scores.new_full((5,), scores.max().item() + 1)])
    assert process.step_returns(padded, "sum")[0] > process.step_returns(scores, "sum")[0]
    assert process.step_returns(padded, "min_form")[0] == process.step_returns(scores, "min_form")[0]


def test_no_steps_are_worth_nothing_and_break_nothing():
    for form in ("sum", "mean", "min_form", "difference", "last", "product"):
        assert process.step_returns(STEPS[:0], form).tolist() == []


def test_rewards_land_on_the_last_token_of_their_step_and_none_vanishes():
    placed = process.place(STEPS, torch.tensor([1, 3, 3, 5]), 7)
    assert placed.tolist() == pytest.approx([0, 0.9, 0, 1.2, 0, 0.5, 0])
    with pytest.raises(ValueError, match="the response has 5"):
        process.place(STEPS, torch.tensor([1, 3, 3, 5]), 5)


def test_between_two_levels_a_quantile_is_between_its_neighbours_and_at_1_it_is_the_largest():
    """(0, 1, 3) at the levels 1/4 1/2 3/4: half-way from 1/2 to 3/4 it is 2."""
    three = torch.tensor([0.0, 1, 3], dtype=torch.float64)
    assert risk.low_quantile(three, 0.625).item() == pytest.approx(2.0)
    assert risk.low_quantile(three, 1.0).item() == 3


def test_without_aversion_each_distribution_has_its_own_mean():
    assert risk.entropic(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), 0).tolist() == [2, 6]


def test_a_single_step_is_its_own_mean_and_may_end_on_the_first_token():
    half = torch.tensor([0.5])
    assert process.step_rewards(half, "mean").tolist() == [0.5]
    assert process.place(half, torch.tensor([0]), 1).tolist() == [0.5]
    with pytest.raises(ValueError, match="the response has 2"):
        process.place(torch.tensor([0.5, 0.5]), torch.tensor([-1, 0]), 2)
