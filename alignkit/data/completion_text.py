"""The text of a given completion."""

from __future__ import annotations

from typing import Any

from alignkit.errors import DataError


def completion_text(completion: Any, where: str) -> str:
    """The completion as text; of messages, the last one's."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, list) and completion and isinstance(completion[-1].get("content"), str):
        return completion[-1]["content"]
    raise DataError(f"{where}: no column 'completion' with text; name yours with --column completion=THEIRS")
