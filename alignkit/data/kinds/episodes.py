"""Episodes of offline reinforcement learning, whole: turns that follow one another, each with its reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.data.kinds.kind import Kind
from alignkit.data.kinds.transitions import past_item
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.offline.traced import episodes_of
from alignkit.data.offline.transitions import Transition
from alignkit.types.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRow:
    """All turns of an episode that a task holds."""

    task: Task
    turns: tuple[Transition, ...]


def make_episodes(tasks: Sequence[Task], row_filter: RowFilter) -> list[EpisodeRow]:
    """One row a task, of a trace one a chain. Raises DataError where `turns` is no episode with rewards."""
    return [EpisodeRow(task=task, turns=tuple(turns)) for task in tasks for turns in episodes_of(task, row_filter)]


KIND = Kind(
    name="episodes",
    unit="episodes",
    rows=make_episodes,
    items=lambda row, group: [past_item(row.turns, group)],
    environment="may",
)
