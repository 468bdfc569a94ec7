"""Statistics by rollout: one whose context was rewritten is several sequences, and counts once."""

from __future__ import annotations

import torch

from alignkit.algorithms.rollouts import grpo, rloo
from alignkit.ops import groups
from alignkit.types.batch import pack
from alignkit.types.item import Item


def batch(*members: tuple[int, float]):
    """Sequences of one token each, of one group: (member, reward)."""
    items = [
        Item(prompt_ids=(1, number), completion_ids=(5,), member=m, reward=r) for number, (m, r) in enumerate(members)
    ]
    return pack(items).validate()


def test_a_rollout_of_three_sequences_has_one_vote_in_the_mean_of_its_group():
    """Rewards 3 (three sequences), 0, 0: mean 1 by rollout, 9/5 by sequence."""
    broken = batch((0, 3.0), (0, 3.0), (0, 3.0), (1, 0.0), (2, 0.0))
    advantages = grpo.estimate(grpo.Config(type="grpo", scale="none"), broken).advantages
    assert advantages[broken.action_mask].tolist() == [2, 2, 2, -1, -1]
    others = rloo.estimate(rloo.Config(type="rloo"), broken).advantages
    assert others[broken.action_mask].tolist() == [3, 3, 3, -1.5, -1.5]
    scaled = grpo.estimate(grpo.Config(type="grpo"), broken).advantages[broken.action_mask]
    torch.testing.assert_close(scaled[0], torch.tensor(2 / (3**0.5 + groups.STD_EPS)))  # 4 + 1 + 1 over n - 1 = 2


def test_shares_of_whole_rollouts_change_no_bit():
    values = torch.randn(64, generator=torch.Generator().manual_seed(0))
    group, member = torch.arange(64) // 8, torch.arange(64) % 8
    shares = groups.shares(group, member)
    for what in (groups.mean, groups.centre, groups.std, groups.leave_one_out):
        assert torch.equal(what(values, group, shares), what(values, group)), what.__name__
