"""One row of a data file as a Task."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from alignkit.data.cures import cure_for
from alignkit.data.layouts import MESSAGES, row_system, to_ours
from alignkit.data.paths import reach
from alignkit.data.rows import Row
from alignkit.data.sides import take_prompt
from alignkit.data.traces.training_trace import is_trace
from alignkit.errors import DataError
from alignkit.recipe.lookup.find import did_you_mean
from alignkit.recipe.schema import Data
from alignkit.recipe.template import DOUBLE, template_parts
from alignkit.types.messages import read_messages
from alignkit.types.structures import read_structure
from alignkit.types.task import Message, Task
from alignkit.types.tools import read_tools

NOT_KEPT = ("prompt", "messages", "reference", *MESSAGES)
ANSWERS = ("completion", "chosen", "rejected", "rewrite")
LISTS = ("completions", "scores", "steps", "labels", "turns")
NULL_IS_ABSENT = (*ANSWERS, *LISTS, "tools", "chat_template_kwargs")
SPEAKERS = ("\n\nHuman:", "\n\nAssistant:")
OF_PYTHON = re.compile(r"\s*\[\s*\{'(?=.*'(role|from)':)", re.DOTALL)
LIKE_MESSAGES = re.compile(r"""\s*\[?\s*\{\s*["'][a-z_]+["']\s*:""")

Columns = dict[str, Any]
MEDIA = ("images", "videos", "audios")


def make_task(
    row: Row, data: Data, *, source: str, number: int, elsewhere: Callable[[str], bool] = lambda path: False
) -> Task:
    """The Task of row `number` (from 0). Its id is `<source>/<number>`, or `<source>/<the id column>` if one is named.

    The prompt comes from `data.template`, else the column `prompt` (text or messages), else `messages` (a final
    assistant message becomes the completion, and the task is a conversation), else what `chosen` and `rejected` have in
    common, else it is empty and the column `text` is learnt as it is. Layouts of other tools are known
    (`layouts.py: to_ours`). Messages, tools and calls are in one form, whatever the file. Task.columns keeps all other
    columns under their own and under our names. elsewhere: whether another row has something at a path of
    `data.columns`, so that here it is only absent. Raises DataError that names the row, the column and the cure.
    """
    named = _renamed(row, data, elsewhere)
    media = next((name for name in MEDIA if named.get(name)), None)
    if media is not None:
        raise DataError(
            f"{row.where}: its column `{media}` holds what no model here can see; leave the row out, or take "
            "the column out where its text alone is meant"
        )
    columns = to_ours(named, where=row.where, has_prompt=data.template is not None)
    system = row_system(named, columns, named="system" in data.columns)
    if system is not None and not isinstance(system, str):
        raise DataError(f"{row.where}: its column `system` is {_shown(system)}; wanted text")
    columns = _typed(row, columns, data)
    prompt, columns, conversation = _prompt(row, columns, data)
    messages, text = _conversation(row, prompt, columns, system, data)
    own_id = columns.get("id") if "id" in data.columns else None
    if isinstance(own_id, list | Mapping):
        raise DataError(f"{row.where}: its id is {_shown(own_id)}; wanted text or a number, so mend data.columns.id")
    return Task(
        id=f"{source}/{number if own_id is None else own_id}",
        messages=messages,
        text=text,
        reference=columns.get("reference"),
        columns=_kept(named, columns, used=("system",) if system else ()),
        conversation=conversation,
    )


def _renamed(row: Row, data: Data, elsewhere: Callable[[str], bool]) -> Columns:
    """The row's columns, and those of `data.columns`. A path that other rows have leads to nothing here."""
    named: Columns = dict(row.columns)
    taken = {}
    for ours, theirs in data.columns.items():
        try:
            value = reach(row.columns, theirs)
        except KeyError as error:
            if not elsewhere(theirs):
                raise _no_column(row, theirs, str(error.args[0]), f"mend data.columns.{ours}") from error
            value = None
        taken[ours] = value
        if theirs in named and ours in (*ANSWERS, "messages", "prompt") and isinstance(value, list | Mapping):
            del named[theirs]  # messages would stand there a second time, and as the file spells them
    return {**named, **taken}


def _kept(named: Columns, columns: Columns, *, used: tuple[str, ...]) -> Columns:
    left_out = (*NOT_KEPT, *used)
    empty = {name: None for name, value in named.items() if value is None and name not in NULL_IS_ABSENT}
    return {name: value for name, value in {**empty, **columns}.items() if name not in left_out}


def _typed(row: Row, columns: Columns, data: Data) -> Columns:
    """The columns of messages, tools and lists as such, whatever text or spelling they have in the file."""
    result = dict(columns)
    for name in ("prompt", "messages", *ANSWERS):
        if name in columns:
            result[name] = _said(row, name, columns[name], data)
    for name in LISTS:
        value = columns.get(name)
        if isinstance(value, str) and value.lstrip().startswith("["):
            result[name] = read_structure(value, where=f"{row.where}: {name}", wanted="a list")
    if isinstance(result.get("completions"), list):
        result["completions"] = [
            _said(row, f"completions[{number}]", answer, data) for number, answer in enumerate(result["completions"])
        ]
    if "steps" in columns and columns["steps"] is columns.get("completions"):
        result["steps"] = result["completions"]
    if "tools" in columns:
        result["tools"] = read_tools(columns["tools"], where=f"{row.where}: tools") or None
    if "chat_template_kwargs" in columns:
        place, wanted = f"{row.where}: chat_template_kwargs", "a mapping, such as {enable_thinking: false}"
        settings = read_structure(columns["chat_template_kwargs"], where=place, wanted=wanted)
        if not isinstance(settings, Mapping):
            raise DataError(f"{place} is {_shown(settings)}; wanted {wanted}")
        result["chat_template_kwargs"] = dict(settings)
    return {name: value for name, value in result.items() if value is not None}


def _said(row: Row, name: str, value: Any, data: Data) -> str | list[Message]:
    """Text, or messages: lists of them, text that is JSON, and (for chats) Anthropic's dialogues in one text."""
    where = f"{row.where}: {name}"
    if not isinstance(value, str) or name == "messages":
        return read_messages(value, where=where)
    if not data.chat:
        return value
    if _is_messages(value):
        return read_messages(value, where=where)
    if value.startswith(SPEAKERS):
        return _spoken(value, is_prompt=name == "prompt")
    return value


def _is_messages(text: str) -> bool:
    """Whether a text is messages in JSON (or as Python writes them), and not only a text with braces."""
    if not LIKE_MESSAGES.match(text) or not text.rstrip().endswith(("]", "}")):
        return False
    try:
        value = read_structure(text, where="", wanted="")
    except DataError:
        return bool(OF_PYTHON.match(text))  # to be named as such
    messages = value if isinstance(value, list) else [value]
    return all(
        isinstance(each, Mapping)
        and {"role", "from"} & each.keys()
        and {"content", "value", "tool_calls"} & each.keys()
        for each in messages
    )


def _spoken(text: str, *, is_prompt: bool) -> list[Message]:
    parts = re.split(f"({'|'.join(SPEAKERS)})", text)[1:]
    messages: list[Message] = [
        {"role": "user" if speaker == SPEAKERS[0] else "assistant", "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    opened = is_prompt and len(messages) > 1 and messages[-1] == {"role": "assistant", "content": ""}
    return messages[:-1] if opened else messages  # the template writes where the assistant goes on


def _no_column(row: Row, name: str, found: str, cure: str) -> DataError:
    guess = did_you_mean(name, row.columns)
    there = [column for column, value in row.columns.items() if value is not None]
    return DataError(f"{row.where}: {found}{guess}; it has {', '.join(there) or 'none'}; {cure}")


def _prompt(row: Row, columns: Columns, data: Data) -> tuple[Any, Columns, bool]:
    """The prompt as text or messages, the columns from which it may have been taken out, and whether both together are
    one conversation."""
    prompt = columns.get("prompt")
    if data.template is not None:
        asked = _fill(row, data.template, {**row.columns, **columns})
        sides = {name: columns[name] for name in ANSWERS if name in columns}
        return asked, {**columns, **_after_question(row, asked, sides)}, False
    conversation = False
    if prompt is None and "messages" not in columns and is_trace(columns.get("turns")):
        return "", columns, False  # whose prompts are tokens
    if prompt is None and "messages" in columns:
        prompt, columns, conversation = _split_answer(columns)
    elif prompt is not None and "messages" in columns and not {"completion", "chosen", "rejected"} & columns.keys():
        prompt, columns, conversation = _continued(prompt, columns)
    elif prompt is None and not {"chosen", "rejected"} <= columns.keys():
        if not isinstance(columns.get("text"), str):
            raise _no_column(row, "prompt", "no column 'prompt'", cure_for("prompt", row.columns))
        return "", {**columns, "completion": columns["text"]}, False
    if isinstance(prompt, str) and prompt.startswith(SPEAKERS):
        columns = _without_dialogue(prompt, columns)
    sides = {name: columns[name] for name in ANSWERS if name in columns}
    if prompt is None:
        sides = {name: sides[name] for name in ("chosen", "rejected")}
    prompt, sides = take_prompt(row.where, prompt, sides)
    return prompt, {**columns, **sides}, conversation


def _split_answer(columns: Columns) -> tuple[list[Message], Columns, bool]:
    messages: list[Message] = columns["messages"]
    answered = len(messages) > 1 and messages[-1]["role"] == "assistant"
    if answered and "rejected_response" in columns and "chosen" not in columns:
        return messages[:-1], {**columns, "chosen": messages[-1:]}, False
    if answered and columns.get("completion") is None:
        return messages[:-1], {**columns, "completion": messages[-1:]}, True
    return messages, columns, not {"completion", "chosen", "rejected"} & columns.keys()


def _continued(prompt: str | list[Message], columns: Columns) -> tuple[str | list[Message], Columns, bool]:
    """A prompt that is how `messages` begin (as in UltraChat): what follows it there is the completion."""
    messages: list[Message] = columns["messages"]
    count = len(prompt)
    if isinstance(prompt, str):
        count = next((place for place, message in enumerate(messages, start=1) if message["role"] == "user"), 0)
        same = count and messages[count - 1]["content"].strip() == prompt.strip()
    else:
        same = messages[:count] == prompt
    if not same or len(messages) == count:
        return prompt, columns, False
    return messages[:count], {**columns, "completion": messages[count:]}, True


def _without_dialogue(prompt: str, columns: Columns) -> Columns:
    """Answers that repeat a dialogue, as text: without it."""
    texts = {name: columns[name] for name in ANSWERS if isinstance(columns.get(name), str)}
    if not texts or not all(text.startswith(prompt) for text in texts.values()):
        return columns
    return {**columns, **{name: text.removeprefix(prompt) for name, text in texts.items()}}


def _after_question(row: Row, prompt: str, sides: Columns) -> Columns:
    """Whole conversations behind a prompt that the template made in place of their one question."""
    if not any(isinstance(side, list) for side in sides.values()):
        return sides
    asked: list[Message] = [{"role": "user", "content": prompt}]
    questions = {
        name: side for name, side in sides.items() if isinstance(side, list) and side[0]["role"] != "assistant"
    }
    if any(len(side) < 2 or side[0]["role"] != "user" or side[1]["role"] == "user" for side in questions.values()):
        raise DataError(
            f"{row.where}: data.template makes the prompt, and {' and '.join(questions)} have one; keep one"
        )
    filled = {name: [*asked, *side[1:]] if name in questions else side for name, side in sides.items()}
    return take_prompt(row.where, prompt, filled)[1]


def _fill(row: Row, template: str, columns: Mapping[str, Any]) -> str:
    try:
        parts = template_parts(template)
    except ValueError as error:
        raise DataError(f"{row.where}: data.template {error}") from error
    said = []
    for part in parts:
        said.append(part.text)
        if part.column is None:
            continue
        try:
            value = reach(columns, part.column)
        except KeyError as error:
            raise _no_column(row, part.column, str(error.args[0]), f"mend data.template ({DOUBLE})") from error
        if value is None:
            raise DataError(f"{row.where}: column '{part.column}' is empty, and data.template needs it")
        try:
            said.append(format(value, part.format))
        except (TypeError, ValueError) as error:
            found = f"{type(error).__name__}: {error}"
            raise DataError(f"{row.where}: its columns do not fill data.template ({found}); {DOUBLE}") from error
    return "".join(said)


def _conversation(
    row: Row, prompt: Any, columns: Columns, system: str | None, data: Data
) -> tuple[tuple[Message, ...] | None, str | None]:
    tokens = is_trace(columns.get("turns"))
    whole = tokens or "text" in columns  # which no template touches
    if prompt == "" and whole and "prompt" not in columns:
        return None, ""
    messages: list[Message] = []
    if isinstance(prompt, str):
        if not prompt:
            raise DataError(f"{row.where}: the prompt is empty; wanted text")
        if not (data.chat or system):
            return None, prompt
        messages.append({"role": "user", "content": prompt})
    else:
        messages += prompt
    if not data.chat:
        found = "text with a system message" if isinstance(prompt, str) else "a list of messages"
        raise DataError(f"{row.where}: the prompt is {found}; set data.chat to true to render it")
    if not any(message["content"] or "tool_calls" in message for message in messages):
        raise DataError(f"{row.where}: the prompt is empty; wanted a message with a content")
    has_own = messages[0]["role"] == "system"
    if data.system is not None and (has_own or system):
        raise DataError(f"{row.where}: the prompt has its own system message; remove data.system")
    first = system or data.system
    if has_own and system and messages[0]["content"].strip() != system.strip():
        raise DataError(f"{row.where}: its column `system` and its first message are two system messages; keep one")
    return (*([] if has_own or not first else [_system(first)]), *messages), None


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
