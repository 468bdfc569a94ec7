"""The tools that a conversation may call, in the form that chat templates read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignkit.errors import DataError
from alignkit.types.structures import read_structure

WANTED = 'a list of tools, {"type": "function", "function": {"name": ..., "parameters": {...}}} or the functions alone'


def read_tools(value: Any, *, where: str) -> list[dict[str, Any]]:
    """The tools of a conversation, each as {"type": "function", "function": {...}}, without nulls; in order.

    value: a list, one tool, or either as JSON text; each tool (and its parameters) may be JSON text again, and a bare
    function is wrapped. Raises DataError that names the tool.
    """
    tools = read_structure(value, where=where, wanted=WANTED)
    return [
        _tool(tool, f"{where}[{number}]")
        for number, tool in enumerate([tools] if isinstance(tools, Mapping) else tools)
    ]


def _tool(value: Any, place: str) -> dict[str, Any]:
    tool = read_structure(value, where=place, wanted='a function with its "name"')
    if not isinstance(tool, Mapping):
        raise DataError(f"{place} is {str(tool)[:40]!r}; wanted a function with its name")
    if not isinstance(tool.get("function"), Mapping) and isinstance(tool.get("name"), str):
        tool = {"type": "function", "function": {name: part for name, part in tool.items() if name != "type"}}
    function = tool.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{place} is {str(tool)[:60]!r}; wanted {WANTED}")
    function = dict(function)
    if isinstance(function.get("parameters"), str):
        function["parameters"] = read_structure(
            function["parameters"], where=f"{place}.parameters", wanted="a JSON schema"
        )
    return {"type": "function", **tool, "function": function}
