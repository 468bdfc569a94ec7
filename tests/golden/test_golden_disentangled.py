"""Length and goals: correlations by hand, what a head of either kind is pulled to, and states that look ahead."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from alignkit.ops import goals, length

SCORES = torch.tensor([1.0, 2, 4, 3], dtype=torch.float64)
LENGTHS = torch.tensor([10, 20, 30, 40])


def test_the_correlation_of_four_scores_with_their_lengths():
    """Centred: (-1.5, -.5, 1.5, .5) and (-15, -5, 5, 15): 40 / sqrt(5 * 500) = .8."""
    assert length.correlation(SCORES, LENGTHS).item() == pytest.approx(0.8)
    assert length.correlation(-3 * SCORES + 7, LENGTHS).item() == pytest.approx(-0.8)


def test_without_spread_there_is_no_correlation_and_no_slope():
    for scores in (torch.ones(4, requires_grad=True), torch.ones(1, requires_grad=True)):
        value = length.correlation(scores, LENGTHS[: len(scores)])
        (slope,) = torch.autograd.grad(value, scores)
        assert value.item() == 0
        assert slope.isfinite().all()


def test_quality_pays_for_length_either_way_and_the_other_head_is_paid_for_it():
    assert length.disentangle(SCORES, SCORES, LENGTHS).item() == pytest.approx(0)
    assert length.disentangle(-SCORES, SCORES, LENGTHS).item() == pytest.approx(0)
    assert length.disentangle(torch.tensor([1.0, -1, -1, 1]).double(), LENGTHS.double(), LENGTHS).item() == -1
    assert length.disentangle(LENGTHS.double(), -LENGTHS.double(), LENGTHS).item() == pytest.approx(2)


def test_training_two_heads_moves_length_from_one_to_the_other():
    """Preferences that follow quality + length; the quality head ends free of length, the sum still predicts."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 2, dtype=torch.float64, generator=generator)
    lengths = features[:, 1] * 50 + 200
    worth = features.sum(1)
    heads = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([heads], lr=0.05)
    first, second = torch.arange(200), torch.arange(200, 400)
    better = torch.where(worth[:200] > worth[200:], 1.0, -1.0)
    with torch.no_grad():
        heads += 0.1
    for _ in range(300):
        quality, absorbed = (features @ head for head in heads)
        gap = (quality + absorbed)[first] - (quality + absorbed)[second]
        loss = -torch.nn.functional.logsigmoid(better * gap).mean() + length.disentangle(quality, absorbed, lengths)
        optimizer.zero_grad()
        (loss + torch.cosine_similarity(heads[0], heads[1], dim=0).abs()).backward()
        optimizer.step()
    quality = (features @ heads[0]).detach()
    assert abs(length.correlation(quality, lengths).item()) < 0.05
    assert length.correlation(quality, features[:, 0] * 50).item() > 0.98
    assert ((better * gap) > 0).double().mean().item() > 0.97


def test_alike_states_are_cheap_in_a_preferred_answer_and_dear_in_another():
    states = torch.tensor([[1.0, 0], [1, 0], [1, 0]])
    ends = torch.tensor([[2.0, 0], [2, 0], [0, 1]])
    loss = goals.goal_contrast(states, ends, torch.tensor([True, False, True]), temperature=0.5)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-2)), math.log1p(math.exp(2)), math.log(2)])


def test_a_goal_lies_after_its_state_and_both_are_drawn_evenly():
    last = torch.tensor([0, 1, 3]).repeat(4000)
    state, goal = goals.draw_states(last, range(len(last)))
    assert ((state >= 0) & (state <= goal) & (goal <= last)).all()
    assert ((state < goal) | (last == 0)).all()
    of_four = state.reshape(-1, 3)[:, 2]
    shares = torch.bincount(of_four) / len(of_four)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    after_first = goal.reshape(-1, 3)[:, 2][of_four == 0] - 1
    assert (torch.bincount(after_first) / len(after_first)).tolist() == pytest.approx([1 / 3] * 3, abs=0.04)


def test_slopes_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(3)
    one, other = (torch.randn(4, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))
    assert gradcheck(lambda a, b: length.disentangle(a, b, LENGTHS), (one, other))
    states = torch.randn(2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    ends = torch.randn(2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    good = torch.tensor([True, False])
    assert gradcheck(lambda a, b: goals.goal_contrast(a, b, good, temperature=0.3), (states, ends))


def test_a_goal_is_drawn_evenly_from_what_follows_its_state():
    """Of 4 tokens: from the second one the third or the fourth, from the last but one the last."""
    state, goal = goals.draw_states(torch.full((3000,), 3), range(3000))
    for at, later in ((0, [1, 2, 3]), (1, [2, 3]), (2, [3])):
        drawn = goal[state == at]
        assert sorted(drawn.unique().tolist()) == later
        for one in later:
            assert (drawn == one).float().mean().item() == pytest.approx(1 / len(later), abs=0.06)
