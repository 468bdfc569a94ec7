"""Conversations as data files and programs spell them, brought into the one form of `types/task.py: Message`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignkit.errors import DataError
from alignkit.types.structures import read_structure
from alignkit.types.task import Message
from alignkit.types.tool_calls import read_tool_calls

WANTED = 'a list of messages, {"role": "user" | "assistant" | "system" | "tool", "content": ...}'
ROLES = {
    **dict.fromkeys(("system", "user", "assistant", "tool", "developer")),
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot", "ai"), "assistant"),
    **dict.fromkeys(("function", "ipython", "observation", "tool_response"), "tool"),
}
CALLERS = ("function_call", "tool_call")  # roles of messages whose content is a call
SAID = ("content", "value")
THOUGHT = ("reasoning_content", "reasoning", "thinking")
CALLED = ("tool_calls", "function_call")
FLAGS = ("weight", "loss", "train", "training")
PART_FLAGS = ("train_detail", "training_detail")
TEXTS = ("text", "input_text", "output_text")
LIKE_CONTENT = ("text", "message", "msg", "body", "utterance", "response", "contents")
KEYS = ("role", "from", *SAID, *THOUGHT, *CALLED, *FLAGS, "tool_call_id", "name")


def read_messages(value: Any, *, where: str) -> list[Message]:
    """The messages of a conversation, each in the one form, in order.

    value: what stands in the file: a list of messages, one message, or either as JSON text. Messages are OpenAI's and
    Hugging Face's (`role`, `content`, `tool_calls`), ShareGPT's (`from`, `value`), or all turns of `human` and
    `assistant`. Keys that hold null are absent;
    content in parts is their texts, one after another; calls have their arguments as values; thoughts stand under
    `reasoning_content`; `weight`, `loss`, `train` and `training` become `learnt`. Other keys stay as they are.
    where: the row and the column, for errors. Raises DataError that names the message.
    """
    messages = read_structure(value, where=where, wanted=f"text or {WANTED}")
    if isinstance(messages, Mapping):
        messages = [messages]
    if not messages:
        raise DataError(f"{where} is an empty list; wanted at least one message")
    if all(isinstance(turn, Mapping) and turn.keys() == {"human", "assistant"} for turn in messages):
        messages = [{"role": role, "content": turn[role]} for turn in messages for role in ("human", "assistant")]
    result: list[Message] = []
    for number, spelled in enumerate(messages):
        place = f"{where}[{number}]"
        if not isinstance(spelled, Mapping):
            raise DataError(f"{place} is {_shown(spelled)}; wanted a message with a role and a content")
        message = _message(spelled, place)
        if result and _role(spelled, place) in CALLERS and _role(messages[number - 1], place) in CALLERS:
            result[-1]["tool_calls"] = [*result[-1]["tool_calls"], *message["tool_calls"]]  # several calls of one turn
        else:
            result.append(message)
    return result


def _message(spelled: Mapping[str, Any], place: str) -> Message:
    role = _role(spelled, place)
    said = next((spelled[key] for key in SAID if key in spelled), None)
    calls = next((spelled[key] for key in CALLED if spelled.get(key)), None)
    if role in CALLERS:
        role, said, calls = "assistant", None, said if calls is None else calls
        if calls is None:
            raise DataError(f"{place} is {_shown(spelled)}; wanted the call as its {' or '.join(SAID)}")
    if said is None and calls is None:
        other = next((key for key in LIKE_CONTENT if key in spelled), None)
        if other is not None:
            raise DataError(f"{place} is {_shown(spelled)}: no content, but '{other}'; name that `content`")
    text, thoughts = _text(said, place)
    thoughts = next((_text(spelled[key], f"{place}.{key}")[0] for key in THOUGHT if key in spelled), thoughts)
    message: Message = {"role": role, "content": text}
    if thoughts is not None:
        message["reasoning_content"] = thoughts
    if calls is not None:
        message["tool_calls"] = read_tool_calls(calls, where=f"{place}.tool_calls")
    for name in ("tool_call_id", "name"):
        if name in spelled:
            message[name] = _label(spelled[name], f"{place}.{name}")
    learnt = _learnt(spelled, role, place)
    if learnt is not None:
        message["learnt"] = learnt
    others: Any = {name: part for name, part in spelled.items() if name not in (*KEYS, "learnt")}
    return {**message, **others}


def _role(spelled: Mapping[str, Any], place: str) -> str:
    role = spelled.get("role", spelled.get("from"))
    if not isinstance(role, str) or not role:
        got = "no role" if role is None else f"the role {_shown(role)}"
        raise DataError(f"{place} is {_shown(spelled)}, with {got}; wanted a `role` and a `content` (or from, value)")
    plain = role.strip().lower()
    return ROLES[plain] or plain if plain in ROLES else plain if plain in CALLERS else role


def _text(value: Any, place: str) -> tuple[str, str | None]:
    """What is said in a content, and the thoughts among its parts (None where it has none)."""
    if value is None or isinstance(value, str):
        return value or "", None
    if not isinstance(value, list | Mapping):
        raise DataError(f"{place}: its content is {_shown(value)}; wanted text, or a list of text parts")
    said, thoughts = [], []
    if isinstance(value, Mapping) and not {"type", "text"} & value.keys():
        raise DataError(f"{place}: its content is {_shown(value)}; wanted text, so write it with json.dumps")
    for number, part in enumerate([value] if isinstance(value, Mapping) else value):
        kind, text = _part(part, f"{place}: part {number} of its content")
        (thoughts if kind == "thinking" else said).append(text)
    return "".join(said), "".join(thoughts) if thoughts else None


def _part(part: Any, place: str) -> tuple[str, str]:
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, Mapping):
        raise DataError(f'{place} is {_shown(part)}; wanted {{"type": "text", "text": ...}}')
    kind = part.get("type", "text")
    if kind in ("thinking", "reasoning"):
        return "thinking", _text(part.get("thinking", part.get("text")), place)[0]
    text = part.get("refusal" if kind == "refusal" else "text", "" if "type" in part else None)
    if kind not in (*TEXTS, "refusal") or not isinstance(text, str):
        raise DataError(f"{place} is {kind} ({_shown(part)}); only parts of text can be read: leave such rows out")
    return "text", text


def _learnt(spelled: Mapping[str, Any], role: str, place: str) -> bool | None:
    inner = next((key for key in PART_FLAGS if spelled.get(key)), None)
    if inner is not None:
        raise DataError(f"{place}: `{inner}` chooses parts of a message; a message is learnt whole or not: remove it")
    flags = {key: spelled[key] for key in (*FLAGS, "learnt") if key in spelled}
    for key, flag in flags.items():
        if flag not in (0, 1):  # also True, False and 1.0
            raise DataError(f"{place}: `{key}` is {_shown(flag)}; wanted 0 or 1 (false or true)")
    if len({bool(flag) for flag in flags.values()}) > 1:
        raise DataError(f"{place}: {' and '.join(flags)} contradict one another ({flags}); keep one")
    if not flags or role != "assistant":
        if any(flags.values()):
            raise DataError(f"{place}: `{next(iter(flags))}` asks to learn what the {role} says; only assistants' is")
        return None
    return bool(next(iter(flags.values())))


def _label(value: Any, place: str) -> str:
    if not isinstance(value, str | int):
        raise DataError(f"{place} is {_shown(value)}; wanted text")
    return str(value)


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
