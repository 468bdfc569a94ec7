"""A line of the tables that a machine's trials print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """value: as shown. numbers: what it was read from."""

    name: str
    value: str
    level: Literal["ok", "note", "wrong"] = "ok"
    numbers: dict[str, float] | None = None


def markdown(rows: Sequence[Row]) -> str:
    """The table as text, to paste into a report."""
    lines = ["| | what | result |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {row.level} | {row.name} | {row.value.replace('|', '/')} |" for row in rows)])
