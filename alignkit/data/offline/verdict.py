"""How far what a model says of the answers of a group agrees with the data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.types.batch import Batch
    from alignkit.types.outputs import Judgement

Verdict = tuple[float | None, float]
"""(share of right comparisons, ties half, None without any; what the group is worth by the model's numbers)."""


def by_reward(judgement: Judgement, batch: Batch, members: Sequence[int]) -> Verdict:
    """Whether the better paid of each two members has the higher number; their mean number."""
    return agreement(judgement.value, batch.reward, members), mean(judgement.value, members)


def agreement(said: Tensor, truth: Tensor, members: Sequence[int]) -> float | None:
    """Share of the ordered pairs of members that `said` orders as `truth` does."""
    value = said.tolist()
    return share([order(value[a] - value[b]) for a, b in ordered(truth, members)])


def ordered(truth: Tensor, members: Sequence[int]) -> list[tuple[int, int]]:
    """The (better, worse) pairs of members."""
    number = truth.tolist()
    return [(a, b) for a, b in permutations(members, 2) if number[a] > number[b]]


def mean(said: Tensor, members: Sequence[int]) -> float:
    value = said.tolist()
    return sum(value[member] for member in members) / len(members)


def order(lead: float) -> float:
    """1 for a lead, 0 for the opposite, half for a tie."""
    return 0.5 if lead == 0 else float(lead > 0)


def share(right: Sequence[float]) -> float | None:
    return sum(right) / len(right) if right else None
