"""Rows that the user's own function makes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignkit.data.rows import Row
from alignkit.errors import DataError
from alignkit.recipe.lookup.find import Found, did_you_mean, load
from alignkit.recipe.schema import Data

OURS = ("seed", "split")
CURE = "return (or yield) one dictionary for each row, by the names of its columns"


def make_own_rows(found: Found, data: Data, *, seed: int) -> Iterator[Row]:
    """The rows of the function, one after another as they are asked for.

    The function gets `data.options`, and `seed` and `split` where it has arguments of these names.
    Raises ContentError when the file cannot be imported, DataError when the function does not take the options, raises,
    or gives anything but dictionaries.
    """
    function = load(found)
    if not callable(function):
        raise DataError(f"{data.source}: is {type(function).__name__}, not a function; {CURE}")
    arguments = _arguments(function, data, seed)
    number = 0
    for number, row in enumerate(_guarded(function, arguments, data), start=1):
        where = f"{data.source} row {number}"
        if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            raise DataError(f"{where}: is {type(row).__name__} {str(row)[:40]!r}; {CURE}")
        yield Row(where, dict(row))
    if not number:
        raise DataError(f"{data.source}: made no rows for split '{data.split}'; wanted at least one")


def _arguments(function: Any, data: Data, seed: int) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = next((name for name in data.options if name in OURS or not (takes_any or name in parameters)), None)
    if unknown is not None:
        known = [name for name in parameters if name not in OURS]
        guess = did_you_mean(unknown, known)
        raise DataError(f"{data.source}: no option {unknown}{guess}; it takes {', '.join(known) or 'none'}")
    ours = {name: value for name, value in (("seed", seed), ("split", data.split)) if takes_any or name in parameters}
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and name not in {**ours, **data.options}
    ]
    if missing:
        raise DataError(f"{data.source}: needs {', '.join(missing)}; give them under data.options")
    return {**data.options, **ours}


def _guarded(function: Any, arguments: dict[str, Any], data: Data) -> Iterator[Any]:
    """What the function gives, one by one; whatever it raises becomes one line that says where."""
    try:
        made = function(**arguments)
        if isinstance(made, str | bytes | Mapping) or not isinstance(made, Iterable):
            raise DataError(f"{data.source}: gives {type(made).__name__} {str(made)[:40]!r}; {CURE}")
        yield from made
    except DataError:
        raise
    except Exception as error:  # a user's function may raise anything
        place = _place(error)
        raise DataError(
            f"{data.source}: raised {type(error).__name__}: {' '.join(str(error).split())}{place}"
        ) from error


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({Path(trace.tb_frame.f_code.co_filename).name} line {trace.tb_lineno})" if trace else ""
