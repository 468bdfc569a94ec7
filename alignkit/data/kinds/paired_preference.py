"""Paired preferences: two answers to one prompt, one chosen over the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignkit.data.kinds.kind import Kind
from alignkit.data.offline.columns import column, numbers
from alignkit.data.offline.lengths import two_lengths
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.offline.verdict import Verdict, agreement, ordered
from alignkit.errors import DataError, NothingLeft
from alignkit.types.item import Item
from alignkit.types.task import Task

if TYPE_CHECKING:
    from alignkit.types.batch import Batch
    from alignkit.types.outputs import Judgement

SIDES = ("chosen_", "rejected_")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two completions of one prompt. cut: which side was truncated. rewards: of both sides, where the data has them."""

    task: Task
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    cut: tuple[bool, bool] = (False, False)
    rewards: tuple[float, float] | None = None


def make_pairs(prompts: Sequence[tuple[Task, list[int]]], row_filter: RowFilter) -> list[Pair]:
    """The pairs that can be compared, in order. Raises DataError when a row has no two sides, or none is left."""
    pairs = [pair for task, prompt in prompts if (pair := _pair(task, prompt, row_filter)) is not None]
    if not pairs:
        raise NothingLeft(row_filter.report() or f"{row_filter.data.name}: no pair is left to train on")
    rewarded = sum(pair.rewards is not None for pair in pairs)
    if 0 < rewarded < len(pairs):
        raise DataError(
            f"{row_filter.data.name}: {rewarded} of {len(pairs)} pairs have chosen_reward and rejected_reward; "
            "give them to all pairs or to none"
        )
    return pairs


def pair_items(pair: Pair, group: int) -> list[Item]:
    """The chosen and the rejected completion; numbers in columns chosen_NAME and rejected_NAME become channel NAME."""
    rewards = pair.rewards or (0.0, 0.0)
    return [
        Item(
            prompt_ids=pair.prompt,
            completion_ids=completion,
            group=group,
            member=member,
            side=1 - 2 * member,
            reward=rewards[member],
            truncated=pair.cut[member],
            channels=numbers(pair.task.columns, SIDES[member]),
        )
        for member, completion in enumerate((pair.chosen, pair.rejected))
    ]


def describe(rows: Sequence[Pair]) -> str:
    """How long the chosen completions are and how long the rejected ones."""
    return two_lengths([row.chosen for row in rows], [row.rejected for row in rows])


def by_side(judgement: Judgement, batch: Batch, members: Sequence[int]) -> Verdict:
    """Whether the chosen one has the higher number, and its lead."""
    value, (chosen, rejected) = judgement.value.tolist(), ordered(batch.side, members)[0]
    return agreement(judgement.value, batch.side, members), value[chosen] - value[rejected]


KIND = Kind(
    name="paired_preference",
    unit="pairs",
    rows=lambda tasks, row_filter: make_pairs(row_filter.prompts(tasks), row_filter),
    items=pair_items,
    describe=describe,
    verdict=by_side,
    sided=SIDES,
    table="sides",
)


def _pair(task: Task, prompt: list[int], row_filter: RowFilter) -> Pair | None:
    row_filter.seen += 1
    answers = [column(task, name) for name in ("chosen", "rejected")]
    sides = []
    for answer in answers:
        ids = row_filter.ids(task, answer)
        if ids is None:
            return None
        sides.append(ids)
    if sides[0] == sides[1]:
        return row_filter.leave_out("equal sides")
    rewards = _rewards(task)
    if rewards is not None and not all(map(math.isfinite, rewards)):
        return row_filter.leave_out("a reward that is not a finite number")
    fitted, cut = row_filter.fit(task, prompt, sides)
    if not fitted:
        return None
    if fitted[0] == fitted[1]:
        return row_filter.leave_out("sides that differ only behind the length limit")
    chosen, rejected = map(tuple, fitted)
    ids = tuple(prompt)
    return Pair(task=task, prompt=ids, chosen=chosen, rejected=rejected, cut=(cut[0], cut[1]), rewards=rewards)


def _rewards(task: Task) -> tuple[float, float] | None:
    values = [task.columns.get(f"{side}_reward") for side in ("chosen", "rejected")]
    if values[0] is None or values[1] is None:
        return None
    try:
        return float(values[0]), float(values[1])
    except (TypeError, ValueError) as error:
        raise DataError(f"task {task.id}: chosen_reward and rejected_reward must be numbers; got {values}") from error
