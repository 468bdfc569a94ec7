"""Python functions that the policy may call: their JSON schemas, and calls that are bounded and never raise."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from alignkit.errors import ContentError
from alignkit.types.task import ToolCall
from alignkit.types.tool_calls import MALFORMED

SHOWN_ERROR = 500


class ToolFault(StrEnum):
    MALFORMED = MALFORMED  # what was said is no call
    UNKNOWN = "unknown"  # there is no such tool
    ARGUMENTS = "arguments"  # one is missing, not known, or of another type than the schema's
    RAISED = "raised"  # the tool raised
    TIMEOUT = "timeout"  # it took too long
    CUT = "cut"  # its result is longer than the policy may read


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What the policy reads of a call. fault: why it failed, or CUT; None: it went well."""

    name: str
    text: str
    fault: ToolFault | None = None


@dataclass(frozen=True, kw_only=True)
class Toolbox:
    """tools: functions by name, plain or async. schemas: in the form that chat templates read.

    deadline_s: of the calls of a turn together. characters: of a result that the policy reads.
    """

    tools: Mapping[str, Callable[..., Any]]
    schemas: tuple[Mapping[str, Any], ...]
    deadline_s: float = 30.0
    characters: int = 8000

    @classmethod
    def of(cls, functions: Sequence[Callable[..., Any]], *, deadline_s: float, characters: int) -> Toolbox:
        """The schemas are those of `transformers.utils.get_json_schema`: of type hints and a Google docstring.

        Raises ContentError for a function without them, and for two of one name.
        """
        schemas = tuple(tool_schema(function) for function in functions)
        names = [str(schema["function"]["name"]) for schema in schemas]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise ContentError(f"tools: two are called '{twice}'; give each its own name")
        tools = dict(zip(names, functions, strict=True))
        return cls(tools=tools, schemas=schemas, deadline_s=deadline_s, characters=characters)

    async def call(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Results of a turn's calls, made one after the other, in order; each has an equal share of the time."""
        share = self.deadline_s / max(1, len(calls))
        return [await self._call(call, share) for call in calls]

    async def _call(self, call: ToolCall, deadline_s: float) -> ToolResult:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        if call["type"] == MALFORMED:
            return _failed(name, ToolFault.MALFORMED, f"the call cannot be read: {arguments.get('problem')}")
        tool = self.tools.get(name)
        if tool is None:
            return _failed(name, ToolFault.UNKNOWN, f"there is no tool '{name}'; there are: {', '.join(self.tools)}")
        parameters = next(s["function"] for s in self.schemas if s["function"]["name"] == name).get("parameters", {})
        problem = _wrong_arguments(arguments, parameters)
        if problem is not None:
            return _failed(name, ToolFault.ARGUMENTS, problem)
        try:
            text = _as_text(await asyncio.wait_for(_run(tool, arguments), deadline_s))
        except TimeoutError:
            return _failed(name, ToolFault.TIMEOUT, f"no result within {deadline_s:g} s")
        except Exception as error:  # a tool may raise anything, and the policy is to learn what
            return _failed(name, ToolFault.RAISED, f"{type(error).__name__}: {error}")
        if len(text) > self.characters:
            shown = f"{text[: self.characters]}\n[cut: {self.characters:,} of {len(text):,} characters]"
            return ToolResult(name=name, text=shown, fault=ToolFault.CUT)
        return ToolResult(name=name, text=text)


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's JSON schema; raises ContentError where its type hints or its docstring do not give one."""
    from transformers.utils import get_json_schema

    try:
        return get_json_schema(function)
    except Exception as error:  # transformers has several of its own, by version
        name = getattr(function, "__name__", repr(function))
        raise ContentError(
            f"tool '{name}': {error}; give it type hints and a docstring with `Args:` that describes each argument"
        ) from error


def _wrong_arguments(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> str | None:
    from jsonschema import Draft202012Validator

    known = parameters.get("properties", {})
    for name in arguments:
        if name not in known:
            return f"'{name}' is no argument; there are: {', '.join(known) or 'none'}"
    for name in parameters.get("required", ()):
        if name not in arguments:
            return f"the argument '{name}' is missing"
    for name, value in arguments.items():
        schema = known[name]
        nullable = {"anyOf": [schema, {"type": "null"}]} if schema.get("nullable") else schema  # OpenAPI's word
        if not Draft202012Validator(nullable).is_valid(value):
            wanted = schema.get("enum") or schema.get("type", "another")
            return f"the argument '{name}' is {str(value)[:60]!r}; wanted {wanted}"
    return None


async def _run(tool: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """A plain function runs in a thread of its own, which no one waits for when it hangs."""
    if inspect.iscoroutinefunction(tool):
        return await tool(**arguments)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def told(set_it: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_it(value)

    def work() -> None:
        try:
            end = (future.set_result, tool(**arguments))
        except BaseException as error:  # SystemExit would end the thread without a word
            end = (future.set_exception, error if isinstance(error, Exception) else RuntimeError(repr(error)))
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(told, *end)

    threading.Thread(target=work, daemon=True).start()
    return await future


def _as_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode(errors="replace").decode()  # no tokenizer reads half a surrogate pair


def _failed(name: str, fault: ToolFault, why: str) -> ToolResult:
    return ToolResult(name=name, text=json.dumps({"error": why[:SHOWN_ERROR]}, ensure_ascii=False), fault=fault)
