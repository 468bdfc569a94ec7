"""What a group's rollouts are to one another: the best of them, and how far apart all pairs of them are."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from alignkit.ops import groups
from alignkit.ops.groups import Group, Values


def pair_gaps(values: Values, group: Group) -> Values:
    """What over a group adds up to the mean of (value_i - value_j)^2 over its distinct pairs; 0 for groups of one."""
    return 2 * groups.centre(values, group) ** 2 / (groups.size(group) - 1).clamp(min=1)


def best(values: Values, group: Group, count: int) -> Bool[Tensor, " n"]:
    """The `count` largest values of each group, but never its smallest: in a group without spread none is better.

    Of equal values the first in the batch is taken.
    """
    _, index, size = torch.unique(group, return_inverse=True, return_counts=True)
    low = values.new_full((len(size),), float("inf")).scatter_reduce(0, index, values, "amin")[index]
    order = values.argsort(descending=True, stable=True)
    order = order[index[order].argsort(stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (size.cumsum(0) - size)[index[order]]
    return (rank < count) & (values > low)
