"""OpenRLHF's remote reward requests of all its ages: prompt and completion as one decoded text, and what splits it."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, Field

from alignkit.rewards.judge.control_tokens import answer_start, padding_end, thought_start, without_stop
from alignkit.rewards.serve.wire import MOST_COMPLETIONS, WireGroup, WireTurn, group_from_wire
from alignkit.types.rollout import Rollout, StopReason
from alignkit.types.task import Task

LEAST_LEFT, LEAST_RIGHT = 4, 16  # characters of a cut prompt that must be found again: its end, its beginning
PROMPT_END = 8  # last characters of a prompt, which stand in the query unless they were cut off


class OpenRlhfRequest(BaseModel):
    """`query` is prompt and completion as one text, decoded with all control tokens; other keys are ignored.

    Its first clients send `query` alone, later ones `prompts` as well, those of today `labels`, where "" means none.
    """

    query: list[str] = Field(min_length=1, max_length=MOST_COMPLETIONS)
    prompts: list[str] | None = None
    labels: list[Any] | None = None


def groups_from_openrlhf(request: OpenRlhfRequest) -> list[tuple[Task, list[Rollout]]]:
    """One group per query, its completion without the tokens that ended or padded it.

    A completion without any such token was cut off (`StopReason.LENGTH`). Without prompts the last answer that a chat
    template opens is the completion, and the whole text where there is none. Raises ValueError where the lists differ
    in length, or neither a prompt nor what a length limit can have left of it stands in its query.
    """
    count = len(request.query)
    prompts, labels = request.prompts or [None] * count, request.labels or [None] * count
    if not count == len(prompts) == len(labels):
        raise ValueError(f"query, prompts and labels have {count}, {len(prompts)} and {len(labels)} entries")
    groups = []
    for number, (query, prompt, label) in enumerate(zip(request.query, prompts, labels, strict=True)):
        start = answer_start(query) if prompt is None else completion_start(query, prompt)
        if start is None:
            raise ValueError(
                f"query[{number}] does not begin with prompts[{number}], nor with what a length limit leaves of it, so "
                "its completion is not known"
            )
        asked = (query[:start] if prompt is None else prompt) or ""
        begun = asked[thought_start(asked) :]  # what the template wrote of the answer is part of it
        text, ended = without_stop(query[start:])
        turn = WireTurn(text=begun + text, stop=StopReason.END_OF_TEXT if ended else StopReason.LENGTH)
        group = WireGroup(
            prompt=asked[: len(asked) - len(begun)],
            completions=[[turn]],
            reference=None if label == "" else label,
            id=f"request/{number}",
        )
        groups.append(group_from_wire(group))
    return groups


def completion_start(query: str, prompt: str) -> int | None:
    """Where the completion begins in `query`; None when nothing of the prompt is found at the query's beginning.

    Pad and begin tokens may stand before the prompt, and white space may differ, as decoding token ids makes it. A
    length limit may have cut off the prompt's beginning, or its end.
    """
    padded = padding_end(query)
    for begin in (0, padded):
        if query.startswith(prompt, begin):
            return begin + len(prompt)
    respaced = _respaced(query[padded:], prompt[padding_end(prompt) :])
    if respaced is not None:
        return padded + respaced
    begin = len(query) - len(query.lstrip("\ufffd"))  # the cut went through a character
    left = _without_beginning(query[begin:], prompt)
    return _without_end(query, prompt) if left is None else begin + left


def _respaced(query: str, prompt: str) -> int | None:
    """The place after the prompt where the two differ in white space only."""
    wanted = re.sub(r"\s+", "", prompt)
    place = 0
    for character in wanted:
        while place < len(query) and query[place].isspace():
            place += 1
        if place == len(query) or query[place] != character:
            return None
        place += 1
    if not wanted:
        return None
    return len(query) - len(query[place:].lstrip()) if prompt[-1].isspace() else place


def _without_beginning(query: str, prompt: str) -> int | None:
    """Length of the longest end of the prompt that the query begins with."""
    place = prompt.find(query[:LEAST_LEFT], 1)
    while place >= 0 and len(query) >= LEAST_LEFT:
        if query.startswith(prompt[place:]):
            return len(prompt) - place
        place = prompt.find(query[:LEAST_LEFT], place + 1)
    return None


def _without_end(query: str, prompt: str) -> int | None:
    """Length of the beginning of the prompt that the query begins with; None when the prompt's end stands there later,
    so that this is another prompt which begins alike."""
    begin = 0 if query[:1] == prompt[:1] else padding_end(query)
    length = 0
    for said, asked in zip(query[begin:], prompt, strict=False):
        if said != asked:
            break
        length += 1
    if length < LEAST_RIGHT or prompt[-PROMPT_END:] in query[begin + length :]:
        return None
    return begin + length
