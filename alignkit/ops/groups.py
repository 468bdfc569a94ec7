"""Statistics within groups of sequences that answer the same prompt."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

STD_EPS = 1e-4  # what is added to a standard deviation before dividing by it, as in TRL


Values = Float[Tensor, " sequence"]
Group = Int[Tensor, " sequence"]


def _members(group: Group) -> tuple[Group, Int[Tensor, " group"]]:
    """For each sequence the number of its group (0..), and each group's size."""
    _, index, size = torch.unique(group, return_inverse=True, return_counts=True)
    return index, size


def _sums(values: Values, group: Group, weights: Values | None) -> Float[Tensor, " group"]:
    """Sum of weights times values over each group."""
    index, size = _members(group)
    return values.new_zeros(len(size)).index_add(0, index, values if weights is None else values * weights.to(values))


def shares(group: Group, member: Group) -> Values:
    """1 / number of sequences of the same rollout: as weights of what follows they make each rollout count once."""
    _, index, count = torch.unique(torch.stack([group, member]), dim=1, return_inverse=True, return_counts=True)
    return 1 / count[index]


def size(group: Group) -> Group:
    """How many sequences the group of each sequence has."""
    index, sizes = _members(group)
    return sizes[index]


def mean(values: Values, group: Group, weights: Values | None = None) -> Values:
    """Mean of each sequence's group; to the last bit the common value where all are equal, so that centring gives 0."""
    index, size = _members(group)
    low = values.new_full((len(size),), float("inf")).scatter_reduce(0, index, values.detach(), "amin")
    total = _sums(torch.ones_like(values), group, weights)
    return (low + _sums(values - low[index], group, weights) / total)[index]


def centre(values: Values, group: Group, weights: Values | None = None) -> Values:
    """values - group mean."""
    return values - mean(values, group, weights)


def std(values: Values, group: Group, weights: Values | None = None) -> Values:
    """Standard deviation of each sequence's group with the n-1 divisor (n: sum of weights); 0 for groups of one."""
    squares = _sums(centre(values, group, weights) ** 2, group, weights)
    total = _sums(torch.ones_like(values), group, weights)
    return (squares / (total - 1).clamp(min=1)).sqrt()[_members(group)[0]]


def pair_gaps(values: Values, group: Group) -> Values:
    """What over a group adds up to the mean of (value_i - value_j)^2 over its distinct pairs; 0 for groups of one."""
    return 2 * centre(values, group) ** 2 / (size(group) - 1).clamp(min=1)


def leave_one_out(values: Values, group: Group, weights: Values | None = None) -> Values:
    """values - mean of the others in the group = n/(n-1) (values - group mean); 0 for groups of one (2402.14740)."""
    total = _sums(torch.ones_like(values), group, weights)[_members(group)[0]]
    return centre(values, group, weights) * total / (total - 1).clamp(min=1)


def best(values: Values, group: Group, count: int) -> Bool[Tensor, " sequence"]:
    """The `count` largest values of each group, but never its smallest: in a group without spread none is better.

    Of equal values the first in the batch is taken.
    """
    index, size = _members(group)
    low = values.new_full((len(size),), float("inf")).scatter_reduce(0, index, values, "amin")[index]
    order = values.argsort(descending=True, stable=True)
    order = order[index[order].argsort(stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (size.cumsum(0) - size)[index[order]]
    return (rank < count) & (values > low)


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
