"""Where windows begin, kept in the run folder: a run that goes on need not read what was before."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignkit.run_folder import json_lines

WINDOWS = "windows.jsonl"
"""In the run folder, of all its orders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Of one window. number: windows before it, over all passes. first: cursor of its first row. passes: that ended
    before. of_pass: rows of its own pass before it. position: of the source, as whoever reads it says; None: its
    beginning."""

    number: int
    first: int
    passes: int
    of_pass: int
    position: Any


class WindowIndex:
    """A line of `file` for each window of the order `name` that was begun.

    A window begins where it begins whatever was trained on it, so a line stays true; what is missing, or was cut off
    as the run was killed, is found by reading again.
    """

    def __init__(self, file: Path, name: str):
        self._file, self._name = file, name
        self._begins = self._read()

    def before(self, cursor: int) -> Begin | None:
        """Of the window in which the cursor is, or of the last one before it that is known."""
        return next((begin for begin in reversed(self._begins) if begin.first <= cursor), None)

    def add(self, begin: Begin) -> None:
        """Raises StorageError when the file cannot be written."""
        if not self._begins or begin.number > self._begins[-1].number:
            json_lines.append(self._file, {"order": self._name, **asdict(begin)})
            self._begins.append(begin)

    def _read(self) -> list[Begin]:
        records, _ = json_lines.read_tolerant(self._file)
        own = [record for record in records if record.pop("order", None) == self._name]
        return [Begin(**record) for record in own]
