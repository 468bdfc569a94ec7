"""Supervised fine-tuning: completions of prompts, an assistant's messages in conversations, or turns are imitated."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.data.kinds.kind import Kind
from alignkit.data.offline.example import Example
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.offline.traced import NOTHING, chains_of
from alignkit.data.offline.transitions import learn
from alignkit.data.rendering import Rendering, render_learnt
from alignkit.data.traces.training_trace import is_trace
from alignkit.types.item import Item
from alignkit.types.task import Task


def make_sft(tasks: Sequence[Task], row_filter: RowFilter) -> list[Example]:
    """The tasks with what is to be learnt of them, those with turns first; of a trace each chain of its calls."""
    played = [example for task in tasks if "turns" in task.columns for example in _played(task, row_filter)]
    said = [task for task in tasks if "turns" not in task.columns]
    given = {id(task): render_learnt(row_filter.tokenizer, task, row_filter.data) for task in said}
    prompts = [(task, list(given[id(task)].prompt)) for task in said]
    rendered = [
        example
        for task, ids in row_filter.fitting(prompts)
        if (example := _rendered(task, ids, given[id(task)], row_filter))
    ]
    return played + rendered


def sft_items(row: Example, group: int) -> list[Item]:
    """The completion, of which `action` is learnt."""
    return [Item(prompt_ids=row.prompt, completion_ids=row.completion, action=row.action, group=group)]


KIND = Kind(name="sft", rows=make_sft, items=sft_items, table="conversations")


def _played(task: Task, row_filter: RowFilter) -> list[Example]:
    if is_trace(task.columns["turns"]):
        return _traced(task, row_filter)
    first, rest, action = learn(row_filter.renderer, task, row_filter.context)
    return [Example(task=task, prompt=tuple(first), completion=tuple(rest), action=tuple(action))]


def _traced(task: Task, row_filter: RowFilter) -> list[Example]:
    """The chains of a TrainingTrace, by its own tokens and masks."""
    return [
        Example(
            task=task,
            prompt=tuple(item.prompt_ids),
            completion=tuple(item.completion_ids),
            action=tuple(item.action or ()),
        )
        for item in chains_of(task, row_filter)
    ]


def _rendered(task: Task, prompt: Sequence[int], rendering: Rendering, row_filter: RowFilter) -> Example | None:
    """A task with what is to be learnt from it; None, and counted, where that is nothing or too long."""
    row_filter.seen += 1
    if not any(rendering.action):
        return row_filter.leave_out(NOTHING)
    fitted, _ = row_filter.fit(task, prompt, [list(rendering.completion)])
    if not fitted:
        return None
    completion = tuple(fitted[0])
    action = rendering.action[: len(completion)]
    if not any(action):
        return row_filter.leave_out("nothing to learn within the length limit")
    return Example(task=task, prompt=tuple(prompt), completion=completion, action=None if all(action) else action)
