"""Names that reach into a column: `reward_model.ground_truth`, `choices[0].text`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

PART = re.compile(r"\[([^\[\]]+)\]|(?:^|\.)([^.\[\]]+)")


def reach(columns: Mapping[str, Any], path: str) -> Any:
    """The value at `path` in a row; None where something on the way is null.

    path: a column's name, which wins even if it has dots in it, or a column and parts of it: keys after a dot or in
    brackets, numbers of a list from 0 (from its end: -1). Braces around it all are left out, as in `data.template`.
    JSON text on the way is parsed. Raises KeyError, with the text of what is wrong, where there is no such part.
    """
    if path in columns:
        return columns[path]
    plain = path[1:-1] if path.startswith("{") and path.endswith("}") else path
    parts, dotted = _split(plain)
    value: Any = columns
    done = 0
    while done < len(parts) and value is not None:
        name = ".".join(parts[:done])
        if done and isinstance(value, str):
            value = _parsed(value, name)
        if isinstance(value, Mapping):
            size = next((n for n in range(dotted[done], 0, -1) if ".".join(parts[done : done + n]) in value), 0)
            if not size:
                known = ", ".join(map(str, value)) or "nothing"
                raise KeyError(
                    f"'{name}' has no '{parts[done]}'; it has {known}" if done else f"no column '{parts[0]}'"
                )
            value, done = value[".".join(parts[done : done + size])], done + size
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            value, done = _element(value, parts[done], name), done + 1
        else:
            raise KeyError(f"'{name}' is {type(value).__name__} {str(value)[:40]!r} and has no '{parts[done]}'")
    return value


def _split(path: str) -> tuple[list[str], list[int]]:
    """The parts, and how many from each one on may be one name with dots in it: a part in brackets stands alone."""
    found = PART.findall(path)
    if PART.sub("", path) or not found:
        raise KeyError(f"'{path}' is no path; write e.g. `reward_model.ground_truth` or `choices[0].text`")
    dotted = [1] * len(found)
    for place in reversed(range(len(found) - 1)):
        dotted[place] += dotted[place + 1] * (not found[place][0] and not found[place + 1][0])
    return [plain or inside.strip("'\"") for inside, plain in found], dotted


def _nothing_called(part: str, name: str, value: Mapping[str, Any]) -> str:
    known = ", ".join(map(str, value)) or "nothing"
    return f"'{name}' has no '{part}'; it has {known}" if name else f"no column '{part}'"


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KeyError(f"'{name}' is text, and no JSON that could be reached into: {text[:40]!r}") from error


def _element(values: Sequence[Any], part: str, name: str) -> Any:
    try:
        return values[int(part)]
    except ValueError as error:
        raise KeyError(f"'{name}' is a list; wanted a number from 0 in place of '{part}'") from error
    except IndexError as error:
        raise KeyError(f"'{name}' has {len(values)} elements, none at {part}") from error
