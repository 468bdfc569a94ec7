"""Right and wrong answers, the wrong ones with what they should have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignkit.data.kinds.kind import Kind
from alignkit.data.offline.columns import column, label
from alignkit.data.offline.lengths import mean_length
from alignkit.data.offline.row_filter import RowFilter
from alignkit.errors import NothingLeft
from alignkit.types.item import Item
from alignkit.types.task import Task


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A completion that was called right or wrong. rewrite: what a wrong one should have been; empty for right ones."""

    task: Task
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    right: bool
    cut: bool = False
    rewrite: tuple[int, ...] = ()


def make_rewritten(prompts: Sequence[tuple[Task, list[int]]], row_filter: RowFilter) -> list[Rewritten]:
    """The labelled completions, in order, the wrong ones with their rewrite. Raises NothingLeft when none is."""
    rows = [row for task, prompt in prompts if (row := _rewritten(task, prompt, row_filter)) is not None]
    if not rows:
        raise NothingLeft(row_filter.report() or f"{row_filter.data.name}: no completion is left to train on")
    return rows


def rewritten_items(row: Rewritten, group: int) -> list[Item]:
    """The completion, right or wrong; the rewrite of a wrong one follows it with side 0."""
    side = 1 if row.right else -1
    own = Item(
        prompt_ids=row.prompt, completion_ids=row.completion, group=group, side=side, reward=side, truncated=row.cut
    )
    if row.right:
        return [own]
    return [own, Item(prompt_ids=row.prompt, completion_ids=row.rewrite, group=group, member=1)]


KIND = Kind(
    name="rewrites",
    rows=lambda tasks, row_filter: make_rewritten(row_filter.prompts(tasks), row_filter),
    items=rewritten_items,
    describe=lambda rows: mean_length([row.completion for row in rows]),
    table="sides",
)


def _rewritten(task: Task, prompt: list[int], row_filter: RowFilter) -> Rewritten | None:
    row_filter.seen += 1
    right, rewrite = label(task), task.columns.get("rewrite")
    if not right and not rewrite:
        return row_filter.leave_out("a wrong completion without a rewrite")
    sides = []
    for answer in (column(task, "completion"),) if right else (column(task, "completion"), rewrite):
        ids = row_filter.ids(task, answer)
        if ids is None:
            return None
        sides.append(ids)
    fitted, cut = row_filter.fit(task, prompt, sides)
    if not fitted:
        return None
    completion, *rewritten = map(tuple, fitted)
    if rewritten == [completion]:
        return row_filter.leave_out("a rewrite that changes nothing")
    own = Rewritten(task=task, prompt=tuple(prompt), completion=completion, right=right, cut=cut[0])
    return own if right else replace(own, rewrite=rewritten[0])
