"""Statistics within groups of rollouts that answer the same prompt: one vote each, of however many sequences it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

if TYPE_CHECKING:
    from alignkit.types.batch import Batch

STD_EPS = 1e-4  # what is added to a standard deviation before dividing by it, as in TRL


Values = Float[Tensor, " n"]
Group = Int[Tensor, " n"]


def _members(group: Group) -> tuple[Group, Int[Tensor, " group"]]:
    """For each sequence the number of its group (0..), and each group's size."""
    _, index, size = torch.unique(group, return_inverse=True, return_counts=True)
    return index, size


class Rollouts(NamedTuple):
    """What of a batch is one rollout: several sequences where its context was rewritten or forked.

    of: each sequence's rollout, in the order of their first sequences, which are `first`; group: of each rollout.
    """

    of: Int[Tensor, " sequence"]
    first: Int[Tensor, " rollout"]
    group: Int[Tensor, " rollout"]

    def sums(self, values: Num[Tensor, " sequence"]) -> Num[Tensor, " rollout"]:
        """Over the sequences of each rollout."""
        return values.new_zeros(len(self.first)).index_add(0, self.of, values)


def rollouts(batch: Batch) -> Rollouts:
    """The rollouts of a batch: sequences of one group and member."""
    _, of, size = torch.unique(torch.stack([batch.group, batch.member]), dim=1, return_inverse=True, return_counts=True)
    first = torch.full_like(size, len(of)).scatter_reduce(0, of, torch.arange(len(of), device=of.device), "amin")
    order = first.argsort()
    return Rollouts(order.argsort()[of], first[order], batch.group[first[order]])


def rewards(batch: Batch, of: Rollouts, *, kl_weight: float) -> Float[Tensor, " rollout"]:
    """reward - kl_weight sum_t (l_old_t - l_ref_t) of each rollout, which holds the KL to the reference exactly.

    Raises BatchError when kl_weight is not 0 and old_logprobs or ref_logprobs are missing.
    """
    if not kl_weight:
        return batch.reward[of.first]
    gap = batch.sum_per_sequence(batch.require("old_logprobs") - batch.require("ref_logprobs"))
    return batch.reward[of.first] - kl_weight * of.sums(gap)


def size(group: Group) -> Group:
    """How many sequences the group of each sequence has."""
    index, sizes = _members(group)
    return sizes[index]


def mean(values: Values, group: Group) -> Values:
    """Mean of each sequence's group; to the last bit the common value where all are equal, so that centring gives 0."""
    index, size = _members(group)
    low = values.new_full((len(size),), float("inf")).scatter_reduce(0, index, values.detach(), "amin")
    above = values.new_zeros(len(size)).index_add(0, index, values - low[index])
    return (low + above / size)[index]


def centre(values: Values, group: Group) -> Values:
    """values - group mean."""
    return values - mean(values, group)


def std(values: Values, group: Group) -> Values:
    """Standard deviation of each entry's group with the n-1 divisor; 0 for groups of one."""
    index, size = _members(group)
    squares = values.new_zeros(len(size)).index_add(0, index, centre(values, group) ** 2)
    return (squares / (size - 1).clamp(min=1)).sqrt()[index]


def leave_one_out(values: Values, group: Group) -> Values:
    """values - mean of the others in the group = n/(n-1) (values - group mean); 0 for groups of one (2402.14740)."""
    total = size(group)
    return centre(values, group) * total / (total - 1).clamp(min=1)


def bradley_terry(rewards: Float[Tensor, " sequence"]) -> Float[Tensor, "sequence sequence"]:
    """How likely each sequence beats each other one, sigmoid(r_i - r_j)."""
    return (rewards[:, None] - rewards).sigmoid()


def win_rate(beats: Float[Tensor, "sequence sequence"], group: Group, *, weights: Values | None = None) -> Values:
    """How often each sequence beats the others of its group, itself left out: 1/2 for groups of one.

    beats: probability that the row's sequence beats the column's. weights: of the others as opponents, up to a factor
    that may differ from group to group; they estimate the win rate against another policy than the one sampled.
    """
    others = (group[:, None] == group) & ~torch.eye(len(group), dtype=torch.bool, device=group.device)
    share = others * (torch.ones_like(beats[0]) if weights is None else weights)
    total = share.sum(1)
    return torch.where(total > 0, (beats * share).sum(1) / total.where(total > 0, 1.0), 0.5)
