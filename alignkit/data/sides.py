"""Answers that are whole conversations: what they share with the prompt and with one another is the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from alignkit.errors import DataError
from alignkit.types.task import Message

Side = str | list[Message]
SIDES = ("chosen", "rejected", "completion", "rewrite")
NOT_COMPARED = "learnt"


def take_prompt(
    where: str, prompt: str | list[Message] | None, sides: Mapping[str, Side]
) -> tuple[str | list[Message], dict[str, Side]]:
    """The prompt, and the answers without what belongs to it.

    prompt: text, messages, or None (TRL's implicit prompt: what the sides begin with). Sides of which messages begin
    with another's than the assistant's are whole conversations; their common messages are the prompt, which must hold
    the given one: the end of a list of messages, or the text of one of the user's.
    Raises DataError, which begins with `where`, when they begin differently or hold another prompt.
    """
    if prompt is None and all(isinstance(side, str) for side in sides.values()):
        return _common_text(where, {name: str(side) for name, side in sides.items()})
    lists = {name: side for name, side in sides.items() if isinstance(side, list)}
    whole = lists if prompt is None else {name: side for name, side in lists.items() if _is_whole(side)}
    if prompt is None and (len(lists) < len(sides) or not lists):
        raise DataError(f"{where}: chosen and rejected must both be text or both be lists of messages")
    if not whole:
        assert prompt is not None, "without a prompt all sides are whole"
        return prompt, dict(sides)
    common = _common(list(whole.values()))
    if not common:
        raise DataError(f"{where}: {_names(whole)} begin differently, so they hold no prompt; give a `prompt`")
    cut = {name: side[len(common) :] if name in whole else side for name, side in sides.items()}
    return _reconciled(where, prompt, common, _names(whole)), cut


def _is_whole(messages: list[Message]) -> bool:
    return messages[0]["role"] not in ("assistant", "tool")


def _common(sides: list[list[Message]]) -> list[Message]:
    """What all begin with; of each at least the last message is left, as its answer."""
    most = min(map(len, sides)) - 1
    columns = zip(*(side[:most] for side in sides), strict=True)
    length = len(list(takewhile(lambda same: all(_said(one) == _said(same[0]) for one in same), columns)))
    common = sides[0][:length]
    return common if len(sides) > 1 else _before_answer(sides[0])


def _before_answer(messages: list[Message]) -> list[Message]:
    """The messages before the assistant's last turns, with the tools' results among them."""
    end = len(messages)
    while end > 1 and messages[end - 1]["role"] in ("assistant", "tool"):
        end -= 1
    return messages[:end]


def _reconciled(where: str, prompt: Any, common: list[Message], sides: str) -> list[Message]:
    if prompt is None:
        return common
    if isinstance(prompt, str):
        if any(message["role"] == "user" and message["content"].strip() == prompt.strip() for message in common):
            return common
    else:
        said, given = [*map(_said, common)], [*map(_said, prompt)]
        if said[: len(given)] == given:
            return common
        if given[-len(said) :] == said:
            return prompt
    raise DataError(
        f"{where}: the prompt is not among the messages that {sides} begin with ({common[0]['content'][:40]!r}); "
        "take it out of the file, or name the right one with data.columns"
    )


def _common_text(where: str, sides: Mapping[str, str]) -> tuple[str, dict[str, Side]]:
    first, *others = sides.values()
    length = len(list(takewhile(lambda same: len({*same}) == 1, zip(first, *others, strict=False))))
    if length and first[length - 1] == " ":
        length -= 1  # as TRL does: the space belongs to the first token of the answers
    if not length:
        raise DataError(f"{where}: {_names(sides)} begin differently, so they hold no prompt; give a `prompt`")
    return first[:length], {name: side[length:] for name, side in sides.items()}


def _said(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != NOT_COMPARED}


def _names(sides: Mapping[str, Any]) -> str:
    return " and ".join(sides)
