"""Append-only JSON-lines files that survive a kill at any byte.

A line counts once it ends with a newline. NaN and infinities are written as the strings "NaN", "Infinity" and
"-Infinity", so that every line is strict JSON.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignkit.errors import DataError

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any) -> str:
    """Strict JSON on one line; keys keep their order; what JSON does not know is written as its `str`."""
    return json.dumps(_writable(value), ensure_ascii=False, allow_nan=False, default=str)


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines. A torn last line is skipped; any other bad line raises DataError with its place."""
    records = []
    for number, record in _numbered(path):
        if record is None:
            raise DataError(f"{path}:{number}: is not a JSON object; the file was edited or the disk is damaged")
        records.append(record)
    return records


def read_tolerant(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All lines that can be read, and the number of those that cannot; for reports, which must show what there is."""
    records = [record for _, record in _numbered(path)]
    good = [record for record in records if record is not None]
    return good, len(records) - len(good)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one line and returns once it is on the disk. A torn last line left by a kill is removed first."""
    line = dumps(record).encode("utf-8", errors="replace") + b"\n"
    with path.open("ab+") as file:
        _drop_torn_tail(file)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Atomically rewrites the file with only the lines that `wanted` accepts."""
    if path.exists():
        write_atomically(path, "".join(f"{dumps(record)}\n" for record in read(path) if wanted(record)))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that a kill leaves either the old content or the new one (temp, fsync, rename, fsync)."""
    data = content.encode("utf-8", errors="replace") if isinstance(content, str) else content
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _numbered(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(line number, record or None when unreadable) of every line that ends with a newline."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield number, _parse(line)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    return {key: _NOT_FINITE.get(value, value) if isinstance(value, str) else value for key, value in record.items()}


def _drop_torn_tail(file: Any) -> None:
    """Cuts the file after its last newline; reads backwards in blocks, so the cost is that of the torn line alone."""
    end = position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position < end:
        file.truncate(position)


def _writable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return value
