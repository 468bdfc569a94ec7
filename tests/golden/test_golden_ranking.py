"""Reward models from comparisons and ratings: the sheet's numbers, identities, and slopes by finite differences."""

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck

from alignkit.ops import ranking

no, yes = torch.tensor([False]), torch.tensor([True])


def scores(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("centring", "wanted"), [(0.0, 0.474077), (0.01, 0.510177)])
def test_a_pair_scored_12_and_07(centring, wanted):
    assert ranking.bradley_terry(scores(1.2), scores(0.7), centring=centring).item() == pytest.approx(wanted, abs=1e-6)


def test_a_margin_is_taken_from_the_gap_before_the_sigmoid():
    one_margin = ranking.bradley_terry(scores(1.2, 3), scores(0.7, 1), margin=0.5)
    assert one_margin.tolist() == pytest.approx([math.log(2), math.log1p(math.exp(-1.5))])
    per_pair = ranking.bradley_terry(scores(1.2, 3), scores(0.7, 1), margin=scores(0.5, 2.0))
    assert per_pair.tolist() == pytest.approx([math.log(2), math.log(2)])


def test_only_centring_sees_a_constant_added_to_both_sides():
    chosen, rejected = scores(0.3, -1.0), scores(0.1, 0.4)
    plain, centred = (ranking.bradley_terry(chosen + 7, rejected + 7, centring=c) for c in (0, 0.01))
    torch.testing.assert_close(plain, ranking.bradley_terry(chosen, rejected))
    torch.testing.assert_close(centred - plain, 0.01 * (chosen + rejected + 14) ** 2)


def test_a_ranking_scored_2_1_0_and_the_best_of_the_same_three():
    assert ranking.plackett_luce(scores(2, 1, 0)[None]).item() == pytest.approx(0.720868, abs=1e-6)
    assert ranking.best_of(scores(2, 1, 0)[None], torch.tensor([0])).item() == pytest.approx(0.407606, abs=1e-6)


def test_of_two_answers_ranking_best_of_and_bradley_terry_are_the_same():
    pairs = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    wanted = ranking.bradley_terry(pairs[:, 0], pairs[:, 1])
    torch.testing.assert_close(ranking.plackett_luce(pairs), wanted)
    torch.testing.assert_close(ranking.best_of(pairs, torch.zeros(5, dtype=torch.long)), wanted)


def test_the_chances_of_all_orders_sum_to_one():
    values = scores(0.7, -0.4, 1.1, 0.0)
    chances = [(-ranking.plackett_luce(values[list(order)][None])).exp() for order in itertools.permutations(range(4))]
    assert sum(chances).item() == pytest.approx(1)


def test_missing_places_change_neither_loss_nor_slope_whatever_they_hold():
    filled = torch.tensor([[True, True, True, False], [True, True, False, False], [True, False, False, False]])
    for junk in (0.0, 1e9):
        padded = torch.tensor([[2.0, 1, 0, junk], [1.2, 0.7, junk, junk], [5, junk, junk, junk]], requires_grad=True)
        loss = ranking.plackett_luce(padded, filled)
        assert loss.tolist() == pytest.approx([0.720868, 0.474077, 0], abs=1e-6)
        loss.sum().backward()
        assert padded.grad[~filled].abs().max() == 0
        assert padded.grad[1, 0].item() == pytest.approx(-1 / (1 + math.exp(0.5)))
        best = ranking.best_of(padded, torch.zeros(3, dtype=torch.long), filled)
        assert best.tolist() == pytest.approx([0.407606, 0.474077, 0], abs=1e-6)


def test_two_responses_in_both_orders():
    loss = ranking.two_responses(scores(1.0), scores(-2.0))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2)
    # a model that always prefers the first is no better than one that knows nothing, and pays for its certainty
    assert ranking.two_responses(scores(5.0), scores(5.0)).item() > math.log(2)
    assert ranking.two_responses(scores(0.0), scores(0.0)).item() == pytest.approx(math.log(2))


def test_the_unbiased_logit_forgets_a_liking_for_the_first_place():
    better, liking = scores(0.8, -0.3), 2.5
    torch.testing.assert_close(ranking.unbiased_logit(better + liking, -better + liking), better)


def test_the_ratings_of_an_answer_worth_055():
    logits = ranking.rating_logits(scores(0.55), scores(0, 0.3, 0.7, 1), sharpness=10)
    assert logits.softmax(-1)[0].tolist() == pytest.approx([0.114046, 0.656292, 0.229661], abs=1e-6)
    loss = ranking.rating_loss(scores(0.55), torch.tensor([1]), scores(0, 0.3, 0.7, 1), sharpness=10)
    assert loss.item() == pytest.approx(-math.log(0.656292), abs=1e-5)


def test_rating_bounds_give_each_rating_its_share_of_the_answers():
    worth = torch.rand(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) ** 2
    bounds = ranking.rating_bounds(worth, scores(20, 50, 30))
    counts = torch.histc(torch.bucketize(worth, bounds[1:-1]).double(), bins=3, min=0, max=2) / len(worth)
    assert counts.tolist() == pytest.approx([0.2, 0.5, 0.3], abs=2e-3)
    assert (bounds[0], bounds[-1]) == (0, 1)


def test_a_cost_model_orders_and_fixes_zero():
    """c = (1, -0.5): unsafe above safe; log(1 + e^-1.5) + log(1 + e^-1) + log(1 + e^-.5)."""
    loss = ranking.cost(scores(1.0), scores(-0.5), worse_unsafe=yes, better_unsafe=no)
    wanted = sum(math.log1p(math.exp(-gap)) for gap in (1.5, 1, 0.5))
    assert loss.item() == pytest.approx(wanted)
    shifted = ranking.cost(scores(6.0), scores(4.5), worse_unsafe=yes, better_unsafe=no)
    assert shifted > loss  # the order is as right as before, but a safe answer costs 4.5
    decayed = ranking.cost(scores(1.0), scores(-0.5), worse_unsafe=yes, better_unsafe=no, decay=0.1)
    assert (decayed - loss).item() == pytest.approx(0.125)


def test_slopes_are_those_of_finite_differences():
    one, other = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    marks = torch.tensor([True, False, True, False])
    assert gradcheck(lambda a, b: ranking.bradley_terry(a, b, margin=0.3, centring=0.02), (one, other))
    assert gradcheck(lambda a, b: ranking.plackett_luce(torch.stack([a, b])), (one, other))
    assert gradcheck(lambda a, b: ranking.two_responses(a, b), (one, other))
    assert gradcheck(lambda a, b: ranking.cost(a, b, worse_unsafe=marks, better_unsafe=~marks, decay=0.1), (one, other))
    bounds = scores(0, 0.3, 0.7, 1)
    assert gradcheck(lambda a: ranking.rating_loss(a, torch.tensor([0, 2, 1, 1]), bounds, sharpness=10), (one,))
