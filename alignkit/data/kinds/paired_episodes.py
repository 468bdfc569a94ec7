"""Two episodes of one task, one better than the other, read with what training knows of the task and the policy not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignkit.data.kinds.kind import Kind
from alignkit.data.kinds.paired_preference import by_side
from alignkit.data.offline.columns import column
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.offline.told_episode import told_episode
from alignkit.errors import DataError
from alignkit.types.item import Item
from alignkit.types.task import Task

SIDES = ("chosen_turns", "rejected_turns")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodePair:
    """The better episode and the worse one."""

    task: Task
    sides: tuple[Item, Item]


def make_pairs(tasks: Sequence[Task], row_filter: RowFilter) -> list[EpisodePair]:
    """One row a task, of its columns `chosen_turns`, `rejected_turns` and `privileged`.

    Raises DataError for other columns, and for episodes that begin with different observations.
    """
    return [_pair(task, row_filter) for task in tasks]


def _pair(task: Task, row_filter: RowFilter) -> EpisodePair:
    better, worse = (told_episode(row_filter.renderer, task, column(task, side), row_filter.context) for side in SIDES)
    if better.prompt_ids != worse.prompt_ids:
        raise DataError(f"task {task.id}: the episodes begin with different observations; pairs are of one task")
    return EpisodePair(task=task, sides=(better, worse))


def pair_items(pair: EpisodePair, group: int) -> list[Item]:
    """The better and the worse episode, each a sequence whose utterances are its turns."""
    return [replace(one, group=group, member=member, side=1 - 2 * member) for member, one in enumerate(pair.sides)]


KIND = Kind(
    name="paired_episodes",
    unit="pairs",
    rows=make_pairs,
    items=pair_items,
    verdict=by_side,
    told=True,
)
