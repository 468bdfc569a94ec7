"""Whether there is something to answer."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.errors import DataError
from alignkit.types.task import Task


def check_asked(tasks: Sequence[Task]) -> None:
    """Raises DataError for rows that are whole texts to learn (column `text` alone) where answers are to be sampled."""
    task = next((task for task in tasks if task.messages is None and not task.text), None)
    if task is not None:
        raise DataError(
            f"task {task.id}: has no prompt to answer, its column `text` is learnt as a whole; name what is asked with "
            "data.columns (prompt: text) or data.template"
        )
