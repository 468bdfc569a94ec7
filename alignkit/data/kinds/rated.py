"""Answers with numbers that rate them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignkit.data.kinds.kind import Kind
from alignkit.data.offline.columns import column, numbers
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.offline.verdict import Verdict, mean, order, share
from alignkit.types.item import Item
from alignkit.types.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.types.batch import Batch
    from alignkit.types.outputs import Judgement


@dataclass(frozen=True, kw_only=True)
class Rated:
    """A completion and the numbers in its row, by column."""

    task: Task
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    ratings: Mapping[str, float]


def make_rated(prompts: Sequence[tuple[Task, list[int]]], row_filter: RowFilter) -> list[Rated]:
    """Rows with `completion`; every other column that holds a number (or true or false) is a rating."""
    return row_filter.made(prompts, _rated)


def rated_items(row: Rated, group: int) -> list[Item]:
    """The completion, its ratings as channels."""
    return [Item(prompt_ids=row.prompt, completion_ids=row.completion, group=group, channels=row.ratings)]


def by_rating(judgement: Judgement, batch: Batch, members: Sequence[int]) -> Verdict:
    """Over the objectives: is this answer on the right side of the next one that was rated otherwise?"""
    orders, (sequence,) = [], members
    for name, said in (judgement.parts or {"": judgement.value}).items():
        truth = batch.channels.get(name or next(iter(batch.channels)))
        other = None if truth is None else _next_unlike(truth, sequence)
        if truth is not None and other is not None:
            sign = 1.0 if truth[sequence] > truth[other] else -1.0
            orders.append(order(sign * float(said[sequence] - said[other])))
    return share(orders), mean(judgement.value, members)


KIND = Kind(
    name="rated",
    rows=lambda tasks, row_filter: make_rated(row_filter.prompts(tasks), row_filter),
    items=rated_items,
    verdict=by_rating,
    table="sides",
)


def _next_unlike(truth: Tensor, sequence: int) -> int | None:
    """The next answer of the batch, around its end, whose rating is known and another; None when there is none."""
    numbers = truth.tolist()
    if numbers[sequence] != numbers[sequence]:
        return None
    places = [*range(sequence + 1, len(numbers)), *range(sequence)]
    return next((at for at in places if abs(numbers[at] - numbers[sequence]) > 0), None)


def _rated(task: Task, prompt: list[int], row_filter: RowFilter) -> Rated | None:
    ids = row_filter.ids(task, column(task, "completion"))
    if ids is None:
        return None
    ratings = numbers({name: value for name, value in task.columns.items() if name != "completion"})
    if not ratings:
        return row_filter.leave_out("no rating")
    fitted, _ = row_filter.fit(task, prompt, [ids])
    return Rated(task=task, prompt=tuple(prompt), completion=tuple(fitted[0]), ratings=ratings) if fitted else None
