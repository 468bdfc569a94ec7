"""What is asked of the policy: a conversation in one form, or plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict


class Function(TypedDict):
    """What a tool call calls. arguments: by name, as values (never as JSON text)."""

    name: str
    arguments: Mapping[str, Any]


class ToolCall(TypedDict):
    type: str
    function: Function
    id: NotRequired[str]


class Message(TypedDict):
    """One chat message in the form that chat templates read (Hugging Face's and OpenAI's); absent keys are absent.

    Data files spell messages in many ways; `types/messages.py` brings them all into this form, once.

    role: system, user, assistant, tool, or another one that the chat template shows.
    content: what was said, as text; "" where nothing was (a message that only calls tools).
    reasoning_content: the assistant's thoughts, where the data keep them apart from what was said.
    tool_calls, tool_call_id, name: of assistants that call tools and of the tools' results.
    learnt: of an assistant's message that the data excludes from learning (False) or asks to be learnt (True).
    """

    role: str
    content: str
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    learnt: NotRequired[bool]


def message_text(message: Message) -> str:
    """All that a message says, for people and judges: thoughts, words, and calls as `name({"argument": ...})`."""
    thought = message.get("reasoning_content")
    calls = [
        f"{call['function']['name']}({json.dumps(call['function']['arguments'], ensure_ascii=False, default=str)})"
        for call in message.get("tool_calls", ())
    ]
    return "\n".join(filter(None, [f"<think>\n{thought}\n</think>" if thought else "", message["content"], *calls]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prompt and what is needed to judge an answer to it.

    id: stable over runs, unique in its source (the ledger of consumed prompts is kept by it).
    messages: the conversation to answer; None when the source gives plain text. Where the last message is the
    assistant's, the policy goes on with it.
    text: the plain-text prompt; None when `messages` is given. Exactly one of the two is set.
    reference: gold answer, or None when there is none.
    columns: every other column of the source row, handed to reward functions by name.
    conversation: the row is one whole conversation (column `messages`): every assistant's turn of it can be learnt,
    those in `messages` as well as the completion. Otherwise only the completion is.
    """

    id: str
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    reference: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    conversation: bool = False

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.text is None):
            raise ValueError(f"task {self.id}: exactly one of messages and text must be given")
