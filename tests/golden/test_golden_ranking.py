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


def ranked(values: torch.Tensor, ratings: tuple[float, ...], group: tuple[int, ...] = ()) -> torch.Tensor:
    return ranking.plackett_luce(values, scores(*ratings), torch.tensor(group or (0,) * len(ratings)))


def test_a_ranking_scored_2_1_0_and_the_best_of_the_same_three():
    costs = ranked(scores(2, 1, 0), (3, 2, 1))
    assert costs.sum().item() == pytest.approx(0.720868, abs=1e-6)
    assert costs[0].item() == pytest.approx(0.407606, abs=1e-6)
    assert costs[2].item() == 0
    shuffled = ranked(scores(0, 2, 1), (1, 3, 2))
    torch.testing.assert_close(shuffled, costs[[2, 0, 1]])


def test_of_two_answers_it_is_bradley_terry():
    pairs = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    costs = ranked(pairs.flatten(), (0.7, 0.2) * 5, (4, 4, 1, 1, 3, 3, 0, 0, 9, 9)).view(5, 2)
    torch.testing.assert_close(costs[:, 0], ranking.bradley_terry(pairs[:, 0], pairs[:, 1]))
    assert costs[:, 1].abs().max() == 0


def test_the_chances_of_all_orders_sum_to_one():
    values = scores(0.7, -0.4, 1.1, 0.0)
    chances = [(-ranked(values, order).sum()).exp() for order in itertools.permutations((1.0, 2.0, 3.0, 4.0))]
    assert torch.stack(chances).sum().item() == pytest.approx(1)


def test_answers_rated_alike_are_not_compared():
    """Scores 2, 1, 0, the first two tied: log(1 + e^-2) and log(1 + e^-1); a group of ties alone costs nothing."""
    values = scores(2, 1, 0).requires_grad_()
    costs = ranked(values, (1, 1, 0))
    assert costs.tolist() == pytest.approx([math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), 0])
    (slope,) = torch.autograd.grad(ranked(values, (1, 1, 1)).sum(), values)
    assert slope.abs().max() == 0


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
    assert gradcheck(lambda a: ranked(a, (3, 1, 2, 2)), (one,))
    assert gradcheck(lambda a, b: ranking.two_responses(a, b), (one, other))
    assert gradcheck(lambda a, b: ranking.cost(a, b, worse_unsafe=marks, better_unsafe=~marks, decay=0.1), (one, other))
    bounds = scores(0, 0.3, 0.7, 1)
    assert gradcheck(lambda a: ranking.rating_loss(a, torch.tensor([0, 2, 1, 1]), bounds, sharpness=10), (one,))


def test_bounds_between_ratings_are_no_path_for_a_gradient():
    share = torch.tensor([0.2, 0.8], requires_grad=True)
    assert not ranking.rating_bounds(share, torch.tensor([1.0, 1.0])).requires_grad
