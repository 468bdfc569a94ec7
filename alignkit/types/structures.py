"""Lists and mappings as they come out of files: JSON text is parsed, keys that hold null are absent keys."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from alignkit.errors import DataError

PYTHON_TEXT = re.compile(r"\s*[\[{]\s*\{?\s*'")


def read_structure(value: Any, *, where: str, wanted: str) -> Any:
    """The list or mapping that `value` is or, where it is text, that it says in JSON; without keys that hold null.

    Arrow (so parquet, and `datasets`) writes null for every key that a mapping lacks and another row's has: only
    without nulls are the same rows the same from every kind of file. Elements of lists stay, null or not.
    Text that Python made of a list (`[{'role': ...`), as pandas writes it into csv files, is read, too.
    Raises DataError that begins with `where` and says `wanted` for text that says neither.
    """
    if isinstance(value, str):
        value = _parsed(value, where, wanted)
    if not isinstance(value, list | tuple | Mapping):
        raise DataError(f"{where} is {type(value).__name__} {str(value)[:40]!r}; wanted {wanted}")
    return _without_nulls(value)


def _parsed(text: str, where: str, wanted: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if PYTHON_TEXT.match(text):
            try:
                return ast.literal_eval(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                cure = "it is text that Python made of a list; write it with json.dumps"
                raise DataError(f"{where} is {text[:40]!r}; {cure}") from error
        raise DataError(f"{where} is text {text[:40]!r}, and not JSON ({error}); wanted {wanted}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(part) for part in value]
    return value
