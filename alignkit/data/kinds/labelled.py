"""Completions to be imitated: of a prompt, of all the assistant's messages in a conversation, of given turns."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.data.given.example import Example
from alignkit.data.given.sieve import Sieve
from alignkit.data.given.turns import learn
from alignkit.data.kinds.kind import Kind
from alignkit.data.rendering import Rendering, render_learnt
from alignkit.types.item import Item
from alignkit.types.task import Task

NOTHING = "no learnt token"


def make_labelled(tasks: Sequence[Task], sieve: Sieve) -> list[Example]:
    """The tasks with what is to be learnt of them, those with given turns first."""
    played = [_played(task, sieve) for task in tasks if "turns" in task.columns]
    said = [task for task in tasks if "turns" not in task.columns]
    given = {id(task): render_learnt(sieve.tokenizer, task, sieve.data) for task in said}
    prompts = [(task, list(given[id(task)].prompt)) for task in said]
    rendered = [
        example for task, ids in sieve.fitting(prompts) if (example := _rendered(task, ids, given[id(task)], sieve))
    ]
    return played + rendered


def labelled_items(row: Example, group: int) -> list[Item]:
    """The completion, of which `action` is learnt."""
    return [Item(prompt_ids=row.prompt, completion_ids=row.completion, action=row.action, group=group)]


KIND = Kind(name="labelled", rows=make_labelled, items=labelled_items, table="conversations")


def _played(task: Task, sieve: Sieve) -> Example:
    first, rest, action = learn(sieve.renderer, task, sieve.context)
    return Example(task=task, prompt=tuple(first), completion=tuple(rest), action=tuple(action))


def _rendered(task: Task, prompt: Sequence[int], rendering: Rendering, sieve: Sieve) -> Example | None:
    """A task with what is to be learnt from it; None, and counted, where that is nothing or too long."""
    sieve.given += 1
    if not any(rendering.action):
        return sieve.leave_out(NOTHING)
    fitted, _ = sieve.fit(task, prompt, [list(rendering.completion)])
    if not fitted:
        return None
    completion = tuple(fitted[0])
    action = rendering.action[: len(completion)]
    if not any(action):
        return sieve.leave_out("nothing to learn within the length limit")
    return Example(task=task, prompt=tuple(prompt), completion=completion, action=None if all(action) else action)
