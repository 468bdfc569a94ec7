"""The columns of data made for other tools, by the names that this one uses (TRL's)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alignkit.errors import DataError
from alignkit.types.structures import read_structure

Columns = dict[str, Any]

MESSAGES = ("conversations", "conversation")
WITH_SYSTEM = ("messages", "instruction", "query")  # layouts whose column `system` is the conversation's system message


def to_ours(columns: Mapping[str, Any], *, where: str, has_prompt: bool) -> Columns:
    """The columns that hold something, those of a known layout under our names besides their own.

    Known are TRL's layouts, OpenAI's for fine-tuning, ShareGPT, Alpaca, and those of LLaMA-Factory, ms-swift and
    OpenRLHF, as docs/data.md shows them. What is ours already wins. Columns of messages are taken over, not copied.
    Nothing is taken for the reference: no layout says that its answer is one.
    where: the row, for errors. has_prompt: the recipe makes the prompt; then only answers are looked for.
    Raises DataError for a history that is none.
    """
    ours = {name: value for name, value in columns.items() if value is not None and not _is_blank(name, value)}
    if ours.get("prompt") == "" and ours.keys() & {*MESSAGES, "messages", "chosen", "text"}:
        del ours["prompt"]
    if not (has_prompt or {"prompt", "messages"} & ours.keys()):
        ours = _prompted(ours, where)
    for mend in (_two_answers, _judged, _stepped, _functions):
        ours = mend(ours)
    return ours


def row_system(columns: Mapping[str, Any], layout: Mapping[str, Any], *, named: bool) -> str | None:
    """The system message in the column `system`: of layouts that have one, and where `data.columns` names it.

    columns: the row's as they stand in the file. layout: the same under our names. Beside TRL's `prompt` a column
    `system` is a column like any other.
    """
    found = any(columns.get(name) is not None for name in (*WITH_SYSTEM, *MESSAGES))
    return layout.get("system") if named or found else None


def _is_blank(name: str, value: Any) -> bool:
    """An empty text is null in a csv file, for columns that hold no text of their own."""
    return isinstance(value, str) and not value.strip() and name in STRUCTURES


STRUCTURES = (
    *MESSAGES,
    "messages",
    "tools",
    "functions",
    "chat_template_kwargs",
    "rejected_messages",
    "rejected_response",
    "system",
    "history",
)


def _prompted(columns: Columns, where: str) -> Columns:
    """With a prompt out of the first layout whose columns are there."""
    for needed, make in LAYOUTS:
        if all(name in columns for name in needed):
            made = make(columns)
            if made is not None:
                return _with_history(made, where) if needed in WITH_HISTORY else made
    return columns


def _sharegpt(columns: Columns) -> Columns:
    name = next(name for name in MESSAGES if name in columns)
    return _moved(columns, {"messages": name})


def _context_messages(columns: Columns) -> Columns:
    return _moved(columns, {"prompt": "context_messages"})


def _openai_preference(columns: Columns) -> Columns | None:
    asked = columns["input"]
    if isinstance(asked, str) and asked.lstrip().startswith("{"):
        asked = read_structure(asked, where="input", wanted='JSON that holds "messages"')
    if not isinstance(asked, Mapping) or not asked.get("messages"):
        return None
    sides = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
    tools = {"tools": asked["tools"]} if asked.get("tools") and "tools" not in columns else {}
    rest = {name: value for name, value in columns.items() if name != "input"}
    return {**_moved(rest, sides), "prompt": asked["messages"], **tools}


def _alpaca(columns: Columns) -> Columns | None:
    asked = [said for said in (columns["instruction"], columns.get("input")) if said]
    if not {"output", "chosen", "rejected"} & columns.keys() or not all(isinstance(said, str) for said in asked):
        return None
    return {**_copied(columns, {"completion": "output"}), "prompt": "\n".join(asked)}


def _swift(columns: Columns) -> Columns:
    return _copied(columns, {"prompt": "query", "completion": "response"})


def _openrlhf(columns: Columns) -> Columns | None:
    if "instruction" in columns or not isinstance(columns["input"], str | list):
        return None
    return _copied(columns, {"prompt": "input", "completion": "output"})


def _with_history(columns: Columns, where: str) -> Columns:
    """With the turns before the prompt (pairs of a question and its answer, or messages): one conversation."""
    history = columns.pop("history", None)
    if history is None:
        return columns
    place, wanted = f"{where}: history", "a list of [a question, its answer]"
    turns: list[Any] = []
    for number, turn in enumerate(read_structure(history, where=place, wanted=wanted)):
        if isinstance(turn, Mapping):
            turns.append(turn)
        elif isinstance(turn, list) and len(turn) == 2 and all(isinstance(said, str) for said in turn):
            turns += [_spoken("user", turn[0]), _spoken("assistant", turn[1])]
        else:
            raise DataError(f"{place}[{number}] is {str(turn)[:40]!r}; wanted [a question, its answer]")
    if not turns or not isinstance(columns["prompt"], str):
        return columns
    turns.append(_spoken("user", columns.pop("prompt")))
    if isinstance(columns.get("completion"), str) and "chosen" not in columns:
        turns.append(_spoken("assistant", columns.pop("completion")))
    return {**columns, "messages": turns}


def _spoken(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _two_answers(columns: Columns) -> Columns:
    """ms-swift: the rejected answer beside a conversation or a response that has the chosen one."""
    if "rejected" in columns or not {"rejected_response", "rejected_messages"} & columns.keys():
        return columns
    if "rejected_messages" in columns and "messages" in columns:
        return _moved(columns, {"chosen": "messages", "rejected": "rejected_messages"})
    return _copied(columns, {"rejected": "rejected_response", "chosen": "completion"})


def _judged(columns: Columns) -> Columns:
    return _copied(columns, {"label": "kto_tag"})


def _stepped(columns: Columns) -> Columns:
    """TRL's stepwise supervision."""
    return _copied(columns, {"steps": "completions"}) if "labels" in columns else columns


def _functions(columns: Columns) -> Columns:
    """OpenAI's older name for tools."""
    return _moved(columns, {"tools": "functions"}) if "messages" in columns else columns


def _copied(columns: Columns, names: Mapping[str, str]) -> Columns:
    """With theirs under our names besides, where they are there and ours are not."""
    found = {ours: columns[theirs] for ours, theirs in names.items() if theirs in columns and ours not in columns}
    return {**columns, **found}


def _moved(columns: Columns, names: Mapping[str, str]) -> Columns:
    rest = {name: value for name, value in columns.items() if name not in names.values()}
    return {
        **rest,
        **{ours: columns[theirs] for ours, theirs in names.items() if theirs in columns and ours not in rest},
    }


LAYOUTS: tuple[tuple[tuple[str, ...], Callable[[Columns], Columns | None]], ...] = (
    (("conversations",), _sharegpt),
    (("conversation",), _sharegpt),
    (("context_messages",), _context_messages),
    (("input", "preferred_output", "non_preferred_output"), _openai_preference),
    (("instruction",), _alpaca),
    (("query",), _swift),
    (("input", "output"), _openrlhf),
)
WITH_HISTORY = (("instruction",), ("query",))
