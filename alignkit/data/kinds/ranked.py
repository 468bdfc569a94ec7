"""Several answers to one prompt, in an order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.data.kinds.kind import Kind
from alignkit.data.offline.columns import lists, number
from alignkit.data.offline.row_filter import RowFilter
from alignkit.types.item import Item
from alignkit.types.task import Task


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Several completions of one prompt and a number for each: the higher, the better; equal ones are ties."""

    task: Task
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...]


def make_ranked(prompts: Sequence[tuple[Task, list[int]]], row_filter: RowFilter) -> list[Ranked]:
    """Rows with `completions` and `scores`, lists of one length; fewer than two answers teach nothing."""
    return row_filter.made(prompts, _ranked)


def ranked_items(row: Ranked, group: int) -> list[Item]:
    """All completions of the prompt, their scores as rewards."""
    return [
        Item(prompt_ids=row.prompt, completion_ids=completion, group=group, member=member, reward=score)
        for member, (completion, score) in enumerate(zip(row.completions, row.scores, strict=True))
    ]


KIND = Kind(
    name="ranked",
    unit="rankings",
    rows=lambda tasks, row_filter: make_ranked(row_filter.prompts(tasks), row_filter),
    items=ranked_items,
    table="sides",
)


def _ranked(task: Task, prompt: list[int], row_filter: RowFilter) -> Ranked | None:
    answers, scores = lists(task, "completions", "scores")
    sides = [ids for answer in answers if (ids := row_filter.ids(task, answer)) is not None]
    if len(sides) < len(answers):
        return None
    if len(sides) < 2:
        return row_filter.leave_out("fewer than two completions")
    values = [number(score) for score in scores]
    if any(value is None for value in values):
        return row_filter.leave_out("a score that is not a finite number")
    fitted, _ = row_filter.fit(task, prompt, sides)
    if not fitted:
        return None
    return Ranked(
        task=task,
        prompt=tuple(prompt),
        completions=tuple(map(tuple, fitted)),
        scores=tuple(value for value in values if value is not None),
    )
