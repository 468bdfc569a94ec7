"""Generalised advantage estimation and PPO's critic loss, by hand."""

import pytest
import torch

from alignkit import ops

REWARDS = torch.tensor([-0.1, 0.2, 0.0, 1.0])
VALUES = torch.tensor([0.5, 0.4, 0.6, 0.3])


def gae(rewards, values, *, segment=None, final=(0.0,), **how):
    segment = torch.zeros(len(rewards), dtype=torch.int64) if segment is None else torch.tensor(segment)
    return ops.advantages.gae(rewards, values, torch.tensor(final), segment, **how)


@pytest.mark.parametrize(
    ("discount", "trace", "wanted"),
    [
        (1.0, 0.95, [0.5094125, 0.74675, 0.365, 0.7]),
        (1.0, 1.0, [0.6, 0.8, 0.4, 0.7]),
        (1.0, 0.0, [-0.2, 0.4, -0.3, 0.7]),
        (0.9, 0.5, [-0.0900375, 0.33325, -0.015, 0.7]),
    ],
)
def test_advantages_of_four_tokens(discount, trace, wanted):
    got = gae(REWARDS, VALUES, discount=discount, trace=trace)
    assert got.tolist() == pytest.approx(wanted, abs=1e-6)


def test_returns_are_advantages_plus_values():
    returns = gae(REWARDS, VALUES, discount=1.0, trace=0.95) + VALUES
    assert returns.tolist() == pytest.approx([1.0094125, 1.14675, 0.965, 1.0], abs=1e-6)


def test_a_critic_that_says_0_and_a_whole_trace_give_the_return_to_go():
    got = gae(REWARDS, torch.zeros(4), discount=1.0, trace=1.0)
    assert got.tolist() == pytest.approx([1.1, 1.2, 1.0, 1.0])


def test_what_a_tool_wrote_in_between_takes_no_discount():
    """Actions at places 0, 3 and 4 of five tokens: the axis of actions is the compacted sequence."""
    got = gae(torch.tensor([0.1, 0.2, 1.0]), torch.tensor([0.5, 0.4, 0.3]), discount=1.0, trace=0.95)
    assert got.tolist() == pytest.approx([0.72675, 0.765, 0.7], abs=1e-6)


def test_sequences_of_different_lengths_do_not_touch_one_another():
    both = gae(
        torch.cat([REWARDS, REWARDS[:2], REWARDS[:1]]),
        torch.cat([VALUES, VALUES[:2], VALUES[:1]]),
        segment=[0, 0, 0, 0, 1, 1, 3],
        final=(0.0, 0.0, 9.0, 0.0),
        discount=0.9,
        trace=0.5,
    )
    alone = [gae(REWARDS[:n], VALUES[:n], discount=0.9, trace=0.5) for n in (4, 2, 1)]
    assert both.tolist() == pytest.approx(torch.cat(alone).tolist())


def test_a_cut_sequence_goes_on_with_the_value_after_its_last_token():
    """delta = 1 + 0.9 x 2 - 0.3 = 2.5 at the last token."""
    got = gae(REWARDS[3:], VALUES[3:], final=(2.0,), discount=0.9, trace=0.5)
    assert got.tolist() == pytest.approx([2.5])


@pytest.mark.parametrize(("value", "target", "wanted"), [(1.0, 2.0, 0.845), (1.0, 0.6, 0.08)])
def test_the_clipped_critic_loss(value, target, wanted):
    """V_old = 0.5, clip 0.2, so V' = 0.7: (0.7 - 2)^2 / 2 = 0.845, (1 - 0.6)^2 / 2 = 0.08."""
    got = ops.policy.clipped_value(*(torch.tensor([x]) for x in (value, 0.5, target)), clip=0.2)
    assert got.item() == pytest.approx(wanted)
    free = ops.policy.clipped_value(*(torch.tensor([x]) for x in (value, 0.5, target)), clip=None)
    assert free.item() == pytest.approx((value - target) ** 2 / 2)


def test_a_sequence_that_goes_on_after_its_end_does_so_beside_a_longer_one_too():
    """1 + 1/2 1/2 - 1/4 of the cut one;  1/2 1/2 1 and 1 of the other."""
    got = gae(
        torch.tensor([1.0, 0.0, 1.0]),
        torch.tensor([0.25, 0.0, 0.0]),
        segment=[0, 1, 1],
        final=(0.5, 0.0),
        discount=0.5,
        trace=0.5,
    )
    assert got.tolist() == pytest.approx([1.0, 0.25, 1.0])
