"""Transitions of offline reinforcement learning: turns of episodes, each with state and reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.data.kinds.kind import Kind
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.offline.traced import episodes_of
from alignkit.data.offline.transitions import Transition
from alignkit.types.item import Item
from alignkit.types.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRow:
    """A turn of the episode that a task holds."""

    task: Task
    turn: Transition


def make_turns(tasks: Sequence[Task], row_filter: RowFilter) -> list[TransitionRow]:
    """All turns of all tasks, in order. Raises DataError for a task whose column `turns` is no episode with rewards."""
    return [
        TransitionRow(task=task, turn=turn)
        for task in tasks
        for turns in episodes_of(task, row_filter)
        for turn in turns
    ]


def past_item(turns: Sequence[Transition], group: int) -> Item:
    """The sequence of turns as they were: the state, then utterances, and what came after each of them, masked."""
    ids: list[int] = []
    action: list[bool] = []
    rewards: list[float] = []
    for turn in turns:
        ids += [*turn.action, *turn.answer]
        action += [True] * len(turn.action) + [False] * len(turn.answer)
        rewards += [0.0] * (len(turn.action) - 1) + [turn.reward] + [0.0] * len(turn.answer)
    total = sum(turn.reward for turn in turns)
    state = turns[0].state
    return Item(prompt_ids=state, completion_ids=ids, action=action, rewards=rewards, reward=total, group=group)


KIND = Kind(
    name="transitions",
    unit="turns",
    rows=make_turns,
    items=lambda row, group: [past_item([row.turn], group)],
    environment="may",
)
