"""What the columns of a task say: an answer, a judgement, numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from alignkit.data.cures import cure_for
from alignkit.errors import DataError
from alignkit.types.task import Task

TRUTH = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def column(task: Task, name: str) -> Any:
    """What stands in a column; raises DataError when there is nothing."""
    value = task.columns.get(name)
    if value is None:
        raise DataError(f"task {task.id}: no column '{name}' to compare; {cure_for(name, task.columns)}")
    return value


def label(task: Task) -> bool:
    """Whether the completion is called good; raises DataError when its column says neither."""
    value = task.columns.get("label")
    judged = TRUTH.get(str(value).strip().lower())
    if judged is None:
        raise DataError(f"task {task.id}: label is {value!r}; wanted true or false (data.columns renames the column)")
    return judged


def lists(task: Task, *names: str) -> tuple[list[Any], list[Any]]:
    """Two columns that hold lists of one length; raises DataError for others."""
    first, second = (column(task, name) for name in names)
    if not isinstance(first, list) or not isinstance(second, list) or len(first) != len(second):
        raise DataError(f"task {task.id}: {names[0]} and {names[1]} must be two lists of one length")
    return first, second


def numbers(columns: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The columns whose names begin with `prefix` and which hold a finite number, true or false; without the prefix."""
    found = {name.removeprefix(prefix): number(value) for name, value in columns.items() if name.startswith(prefix)}
    return {name: value for name, value in found.items() if value is not None}


def number(value: Any) -> float | None:
    """A finite number, true or false as a number; None for anything else."""
    if isinstance(value, str):
        value = TRUTH.get(value.strip().lower(), value)
    try:
        said = float(value) if not isinstance(value, list | dict) else math.nan
    except (TypeError, ValueError):
        return None
    return said if math.isfinite(said) else None
