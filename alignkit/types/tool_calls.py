"""The tool calls of an assistant's message as OpenAI, Hugging Face and ShareGPT write them, in one form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alignkit.errors import DataError
from alignkit.types.structures import read_structure
from alignkit.types.task import ToolCall

MALFORMED = "malformed"
"""Type and name of what should have been a call and cannot be read."""
WANTED = 'calls like {"type": "function", "function": {"name": ..., "arguments": {...}}}'


def read_tool_calls(value: Any, *, where: str) -> list[ToolCall]:
    """The calls, in order, their arguments as values.

    value: a list of calls, one call, or either as JSON text; `function` may be left out around name and arguments, and
    arguments may be JSON text. Raises DataError that names the call.
    """
    calls = read_structure(value, where=where, wanted=WANTED)
    return [
        _call(call, f"{where}[{number}]")
        for number, call in enumerate([calls] if isinstance(calls, Mapping) else calls)
    ]


def _call(value: Any, place: str) -> ToolCall:
    call = read_structure(value, where=place, wanted=WANTED)
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise DataError(f"{place} is {str(value)[:60]!r}; wanted {WANTED}")
    if call.get("type", "function") != "function":
        raise DataError(f"{place} is a call of type {call['type']!r}; wanted function")
    arguments = _arguments(function.get("arguments", function.get("parameters")), f"{place} ({function['name']})")
    result: ToolCall = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if "id" in call:
        result["id"] = str(call["id"])
    return result


def _arguments(value: Any, place: str) -> dict[str, Any]:
    """JSON text is what the model is to say, so that a null in it is an argument; in a mapping it is an absent key."""
    if value is None or value == "":
        return {}
    parsed = value
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: its arguments are {value[:60]!r}, which is not JSON: {error}") from error
    if not isinstance(parsed, Mapping):
        raise DataError(f"{place}: its arguments are {str(value)[:60]!r}; wanted an object, each argument by its name")
    return dict(parsed)
