"""Whether a rendered conversation shows everything that its messages say; what it leaves out is named."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.data.chat_template import ChatTemplate
from alignkit.errors import DataError
from alignkit.types.task import Message

THOUGHTS = re.compile(
    r"^\s*(?:<(think|thinking|thought|reasoning|seed:think)>.*?</\1>|\[THINK\].*?\[/THINK\]|◁think▷.*?◁/think▷"
    r"|(?:(?!</think>).)*</think>)",
    re.DOTALL,
)


def check_shown(
    template: ChatTemplate,
    messages: Sequence[Message],
    rendered: str,
    *,
    where: str,
    tools: Any = None,
    arguments: Mapping[str, Any] | None = None,
    generation_prompt: bool,
) -> None:
    """Raises DataError that names the first thing which the template does not show: words, a tool call, a role, an
    empty turn, or the tools themselves.

    Thoughts of earlier turns may be left out, as templates of reasoning models do on purpose; `lost_thoughts` tells
    for those that are to be learnt.
    """
    row: dict[str, Any] = {"tools": tools, "arguments": arguments, "generation_prompt": generation_prompt}
    page = squashed(rendered)
    for index, message in enumerate(messages):
        problem = _hidden(message, page)
        if problem is None and not _says(message):
            problem = _hidden_turn(template, messages, index, rendered, row)
        if problem is None and not template.shows_role(messages, index, **row):
            problem = f"that the role is {message['role']!r}"
        if problem is not None:
            raise DataError(
                f"{where}: the chat template does not show {problem} (message {index}, {message['role']}); "
                "set model.chat_template to one that does, or take it out of the row"
            )
    for tool in tools or ():
        name = tool.get("function", tool).get("name") if isinstance(tool, Mapping) else None
        if name and squashed(str(name)) not in page:
            raise DataError(
                f"{where}: the chat template does not show the tool {name!r}; set model.chat_template to one that "
                "knows tools, or take the column `tools` out"
            )


def lost_thoughts(message: Message, shown: str) -> bool:
    """Whether thoughts of the message are missing where the conversation shows it (`shown`: the turn's own text)."""
    page = squashed(shown)
    thought = message.get("reasoning_content") or ""
    return squashed(message["content"]) not in page or squashed(thought) not in page


def squashed(text: str) -> str:
    """The text without white space, which templates trim and add."""
    return re.sub(r"\s+", "", text)


def _hidden(message: Message, page: str) -> str | None:
    content = message["content"]
    if not any(one in page for one in _spellings(content)):
        said = THOUGHTS.sub("", content, count=1) if message["role"] == "assistant" else content
        if said == content or squashed(said) not in page:
            return f"{content[:40]!r}"
    for call in message.get("tool_calls", ()):
        function = call["function"]
        values = [value for value in function["arguments"].values() if isinstance(value, str | int | float)]
        for part in (function["name"], *function["arguments"], *values):
            if not any(one in page for one in _spellings(str(part))):
                return f"{part!r} of the call of {function['name']!r}"
    return None


def _spellings(text: str) -> tuple[str, ...]:
    """As it stands, and as JSON writes it."""
    return tuple(squashed(one) for one in (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]))


def _says(message: Message) -> bool:
    return bool(message["content"].strip() or message.get("tool_calls") or message.get("reasoning_content"))


def _hidden_turn(
    template: ChatTemplate, messages: Sequence[Message], index: int, rendered: str, row: dict[str, Any]
) -> str | None:
    try:
        without = template.text([*messages[:index], *messages[index + 1 :]], where="", **row)
    except DataError:  # the turn is needed: it is seen
        return None
    return "the empty turn" if without == rendered else None
