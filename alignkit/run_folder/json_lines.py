"""Append-only JSON-lines files that survive a kill at any byte.

A line counts once it ends with a newline. NaN and infinities are written as the strings "NaN", "Infinity" and
"-Infinity", so that every line is strict JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignkit.errors import DataError
from alignkit.types.files import append_line

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any) -> str:
    """Strict JSON on one line; keys keep their order; what JSON does not know is written as its `str`."""
    return json.dumps(_writable(value), ensure_ascii=False, allow_nan=False, default=str)


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines. A torn last line is skipped; any other bad line raises DataError with its place."""
    return [record for _, record in lines(path)]


def read_tolerant(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All lines that can be read, and the number of those that cannot; for reports, which must show what there is."""
    records = [record for _, _, record in _numbered(path)]
    good = [record for record in records if record is not None]
    return good, len(records) - len(good)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one line and returns once it is on the disk. A torn last line left by a kill is removed first."""
    append_line(path, dumps(record).encode("utf-8", errors="replace"))


def lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """(the line with its newline, its record) of all complete lines, as `read` reads them."""
    for number, line, record in _numbered(path):
        if record is None:
            raise DataError(f"{path}:{number}: is not a JSON object; the file was edited or the disk is damaged")
        yield line, record


def _numbered(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any] | None]]:
    """(line number, line, record or None when unreadable) of every line that ends with a newline."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield number, line, _parse(line)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    return {key: _NOT_FINITE.get(value, value) if isinstance(value, str) else value for key, value in record.items()}


def _writable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return value
