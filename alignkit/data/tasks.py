"""One row in TRL's columns as a Task."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from alignkit.data.rows import Row
from alignkit.errors import DataError
from alignkit.recipe.find import did_you_mean
from alignkit.recipe.schema import Data
from alignkit.types.task import Message, Task

NOT_KEPT = ("prompt", "messages", "reference")
SHAREGPT = {"human": "user", "gpt": "assistant"}
SPEAKERS = ("\n\nHuman:", "\n\nAssistant:")


def make_task(row: Row, data: Data, *, source: str, number: int) -> Task:
    """The Task of row `number` (from 0). Its id is `<source>/<number>`, or `<source>/<the id column>` if one is named.

    The prompt comes from `data.template`, else the column `prompt` (text or messages), else `messages` (a final
    assistant message becomes the completion), else what `chosen` and `rejected` have in common. Messages may be spelled
    in other ways, too (`_dialogues`). Task.columns keeps all other columns under their own and under our names. Raises
    DataError that names the row, the column and the cure.
    """
    columns = _dialogues(_renamed(row, data), data)
    prompt, columns = _prompt(row, columns, data)
    for name in ("completion", "chosen", "rejected"):
        _check_text(row, name, columns.get(name))
    messages, text = _conversation(row, prompt, data)
    own_id = columns.get("id") if "id" in data.columns else None
    return Task(
        id=f"{source}/{number if own_id is None else own_id}",
        messages=messages,
        text=text,
        reference=columns.get("reference"),
        columns={name: value for name, value in columns.items() if name not in NOT_KEPT},
    )


def _renamed(row: Row, data: Data) -> dict[str, Any]:
    for ours, theirs in data.columns.items():
        if theirs not in row.columns:
            raise _no_column(row, theirs, f"mend data.columns.{ours}")
    return {**row.columns, **{ours: row.columns[theirs] for ours, theirs in data.columns.items()}}


def _dialogues(columns: dict[str, Any], data: Data) -> dict[str, Any]:
    """The columns with other spellings of messages turned into {"role", "content"}.

    Known are ShareGPT's {"from", "value"}, one message where a list is meant, and, for chats, Anthropic's dialogues in
    one text (`\\n\\nHuman: ... \\n\\nAssistant: ...`).
    """
    result = dict(columns)
    for name in ("prompt", "messages", "completion", "chosen", "rejected"):
        value = columns.get(name)
        if isinstance(value, Mapping):
            value = [value]
        if (
            isinstance(value, list)
            and value
            and all(isinstance(m, Mapping) and {"from", "value"} <= {*m} for m in value)
        ):
            result[name] = [{"role": SHAREGPT.get(m["from"], m["from"]), "content": m["value"]} for m in value]
        elif isinstance(value, list):
            result[name] = value
        elif data.chat and isinstance(value, str) and value.startswith(SPEAKERS[0]):
            result[name] = _spoken(value)
    return result


def _spoken(text: str) -> list[Message]:
    parts = re.split(f"({'|'.join(SPEAKERS)})", text)[1:]
    return [
        {"role": "user" if speaker == SPEAKERS[0] else "assistant", "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _no_column(row: Row, name: str, cure: str) -> DataError:
    guess = did_you_mean(name, row.columns)
    return DataError(f"{row.where}: no column '{name}'{guess}; it has {', '.join(row.columns) or 'none'}; {cure}")


def _prompt(row: Row, columns: dict[str, Any], data: Data) -> tuple[Any, dict[str, Any]]:
    """The prompt as text or messages, and the columns, from which the prompt may have been taken out."""
    if data.template is not None:
        return _fill(row, data.template, columns), columns
    if columns.get("prompt") is not None:
        return columns["prompt"], columns
    if columns.get("messages") is not None:
        return _split_answer(row, columns)
    if columns.get("chosen") is not None and columns.get("rejected") is not None:
        return _common_start(row, columns)
    raise _no_column(row, "prompt", "name one with data.columns (prompt: THEIRS) or write data.template")


def _fill(row: Row, template: str, columns: Mapping[str, Any]) -> str:
    for _, field, _, _ in string.Formatter().parse(template):
        if field is None:
            continue
        name = re.split(r"[.\[]", field, maxsplit=1)[0]  # {direction[helpful]} is a part of the column direction
        if name not in columns:
            raise _no_column(row, name, "mend data.template")
        if columns[name] is None:
            raise DataError(f"{row.where}: column '{name}' is empty, and data.template needs it")
    try:
        return template.format_map(columns)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise DataError(f"{row.where}: its columns do not fill data.template ({found})") from error


def _split_answer(row: Row, columns: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    messages = _messages(row, "messages", columns["messages"])
    if len(messages) < 2 or messages[-1]["role"] != "assistant" or columns.get("completion") is not None:
        return messages, columns
    return messages[:-1], {**columns, "completion": messages[-1:]}


def _common_start(row: Row, columns: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """TRL's implicit prompt: what chosen and rejected begin with."""
    chosen, rejected = columns["chosen"], columns["rejected"]
    if type(chosen) is not type(rejected) or not isinstance(chosen, str | list):
        raise DataError(f"{row.where}: chosen and rejected must both be text or both be lists of messages")
    length = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
    if isinstance(chosen, str) and length and chosen[length - 1] == " ":
        length -= 1  # as TRL does: the space belongs to the first token of the answers
    if not length:
        raise DataError(f"{row.where}: chosen and rejected begin differently, so they hold no prompt; give a `prompt`")
    return chosen[:length], {**columns, "chosen": chosen[length:], "rejected": rejected[length:]}


def _conversation(row: Row, prompt: Any, data: Data) -> tuple[tuple[Message, ...] | None, str | None]:
    if isinstance(prompt, str):
        if not prompt:
            raise DataError(f"{row.where}: the prompt is empty; wanted text")
        if not data.chat:
            return None, prompt
        messages: list[Message] = [{"role": "user", "content": prompt}]
    else:
        messages = _messages(row, "prompt", prompt)
        if not data.chat:
            raise DataError(f"{row.where}: the prompt is a list of messages; set data.chat to true to render it")
    if data.system is None:
        return tuple(messages), None
    if messages[0]["role"] == "system":
        raise DataError(f"{row.where}: the prompt has its own system message; remove data.system")
    return ({"role": "system", "content": data.system}, *messages), None


def _messages(row: Row, name: str, value: Any) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise DataError(f"{row.where}: column '{name}' is {_shown(value)}; wanted text or a list of messages")
    for number, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise DataError(
                f"{row.where}: {name}[{number}] is {_shown(message)}; "
                'wanted {"role": "user" | "assistant" | "system", "content": ...}'
            )
    return list(value)


def _check_text(row: Row, name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        _messages(row, name, value)


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
