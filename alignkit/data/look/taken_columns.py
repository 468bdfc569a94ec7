"""What each column of a row is taken for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from alignkit.data.rows import Row
from alignkit.data.tasks import make_task
from alignkit.errors import DataError
from alignkit.recipe.schema import Data
from alignkit.types.task import Task

OURS = (
    "completion",
    "chosen",
    "rejected",
    "rewrite",
    "label",
    "completions",
    "scores",
    "steps",
    "labels",
    "turns",
    "tools",
    "chat_template_kwargs",
)
TRIED = 3  # rows to look at, since a column may matter in some only

MARK = " \ue000"  # of no alphabet

PROMPT, SYSTEM, REFERENCE, KEPT = "prompt", "system", "reference", "kept for rewards"


def taken_columns(rows: Sequence[Row], data: Data) -> dict[str, list[str]]:
    """Column -> what of a task comes from it, by changing it in a row (text) or taking it out and looking at the task.

    A column that changes nothing but itself is `kept for rewards` under its own name, one that changes nothing at all
    has an empty list: it is ignored. Rows of which no task can be made tell nothing.
    """
    found: dict[str, dict[str, None]] = {}
    needed: dict[str, dict[str, None]] = {}
    for name in dict.fromkeys(name for row in rows for name in row.columns):
        found[name], needed[name] = {}, {}
        told = (row for row in rows if row.columns.get(name) is not None)
        for row, whole in islice(((row, task) for row in told if (task := _task(row, data))), TRIED):
            changed = _task(_changed(row, name), data)
            if changed is None:
                needed[name] |= dict.fromkeys(_held(name, whole))
            else:
                found[name] |= dict.fromkeys(_changes(name, whole, changed))
    claimed = {role for roles in found.values() for role in roles}
    for name, roles in needed.items():  # what no other column gives comes from the one that no task can do without
        found[name] |= {role: None for role in roles if role not in claimed}
    return {name: [role for role in roles if role != KEPT or len(roles) == 1] for name, roles in found.items()}


def _changed(row: Row, name: str) -> Row:
    value = row.columns[name]
    rest = {other: kept for other, kept in row.columns.items() if other != name}
    if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        rest[name] = value + MARK
    return Row(row.where, rest)


def _held(name: str, whole: Task) -> Iterable[str]:
    if whole.messages or whole.text:
        yield PROMPT
    yield from (ours for ours in OURS if whole.columns.get(ours) is not None)


def _changes(name: str, whole: Task, changed: Task) -> Iterable[str]:
    if (whole.messages, whole.text) != (changed.messages, changed.text):
        yield SYSTEM if _spoken_to(whole) == _spoken_to(changed) else PROMPT
    yield from (ours for ours in OURS if whole.columns.get(ours) != changed.columns.get(ours))
    if whole.reference != changed.reference:
        yield REFERENCE
    if name in whole.columns and name not in OURS:
        yield KEPT


def _spoken_to(task: Task) -> Any:
    return [message for message in task.messages or () if message["role"] != "system"] or task.text


def _task(row: Row, data: Data) -> Task | None:
    try:
        return make_task(row, data, source="", number=0, elsewhere=lambda path: True)
    except DataError:
        return None
