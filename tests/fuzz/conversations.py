"""Conversations as data files hold them, drawn for one model family, and what each message of them said.

Every text holds a mark that no other text of its row holds, so that a message can be found again wherever it went.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any

from hypothesis import strategies as st

from tests.families import FAMILIES, Family, family

HARMLESS = (
    "ok ",
    " two words",
    "\n",
    "\n\n",
    "7",
    "é",
    "日本",
    "\U0001f469\u200d\U0001f4bb",
    "\u202eabc",
    "e\u0301",
    "  ",
    "\t",
    ". ",
)
"""Letters of one to four bytes, joined and combining ones, right to left, white space at the ends and in between."""
TRICKY = (
    "{{ x }}",
    "{% if %}",
    '{"a": 1}',
    "'\"\\",
    "\x00",
    "\u2028",
    "\u00a0",
    "\ufeff",
    "assistant\n",
    "</s>",
    "<think>",
    "</think>",
    "\\n",
)
"""What templates, JSON and readers of tags might take for their own."""
APART = ("gpt_oss", "magistral")
"""Their thoughts are no part of what is said, but have a place of their own."""
OUTSIDE_UNICODE = "\ud800"
"""Half a surrogate pair: JSON can say it, UTF-8 cannot."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """One message: who spoke, the texts to be found again, and the tool calls as (name, argument values).

    text: as one string, "" where the file says null. mark: in the text, or "" where there is none.
    """

    role: str
    text: str
    mark: str
    thought: str = ""
    calls: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """messages: as a file spells them. said: the same, understood. wild: not made to please the family."""

    known: Family
    messages: tuple[dict[str, Any], ...]
    said: tuple[Said, ...]
    wild: bool

    @property
    def plain(self) -> bool:
        """Whether nobody could refuse it: turns by turns, words without tags, nothing that the template cannot show."""
        words = "".join(one.text for one in self.said)
        tags = (*self.known.tokens, *TRICKY, OUTSIDE_UNICODE)
        return not (
            self.wild
            or any(one.thought or one.calls or not one.mark or one.role == "tool" for one in self.said)
            or any(tag in words for tag in tags)
        )


FAMILY = st.sampled_from(FAMILIES).map(family)
# built once: a strategy costs more to build than to draw from. The odd case is the largest number, so that what fails
# shrinks to plain rows.
IN = {number: st.integers(1, number) for number in (2, 3, 4, 5, 6, 10)}
PLACE = st.integers(0, 4)
NOTHING = st.sampled_from(["", " ", "\n\n"])
OTHERS = st.lists(st.sampled_from(["system", "user", "assistant", "tool", "critic"]), max_size=2)
THOUGHT_KEYS = st.sampled_from(["reasoning_content", "thinking"])
ENDINGS = st.sampled_from(["", " é", '"'])
BESIDE_CALLS = st.sampled_from(["", None, "text"])


@cache
def pieces(of: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(of), max_size=3)


def once_in(draw: st.DrawFn, number: int) -> bool:
    return draw(IN[number]) == number


@st.composite
def conversations(draw: st.DrawFn, *, ends: str, max_turns: int = 3) -> Conversation:
    """ends: the role of the last message, user or assistant; tools' results never come last."""
    known, wild = draw(FAMILY), once_in(draw, 4)
    marks = (f"m{number}q" for number in count())
    messages: list[dict[str, Any]] = []
    said: list[Said] = []

    def add(pair: tuple[dict[str, Any], Said]) -> None:
        messages.append(pair[0])
        said.append(pair[1])

    for role in _roles(draw, known, wild, ends, max_turns):
        calls = role == "assistant" and len(messages) > 0 and (wild or known.tools) and once_in(draw, 5)
        if calls:
            for pair in _called(draw, known, wild, marks):
                add(pair)
        add(_message(draw, known, wild, role, marks))
    return Conversation(known=known, messages=tuple(messages), said=tuple(said), wild=wild)


def _roles(draw: st.DrawFn, known: Family, wild: bool, ends: str, max_turns: int) -> list[str]:
    roles = ["user", "assistant"] * draw(IN[max_turns])
    if ends == "user":
        roles = roles[:-1]
    if once_in(draw, 2) and (wild or known.system in ("yes", "default", "merged")):
        roles = ["system", *roles]
    if wild:
        more, place = draw(OTHERS), min(draw(PLACE), len(roles) - 1)
        roles = [*roles[:place], *more, *roles[place:]]
    return roles


def _message(
    draw: st.DrawFn, known: Family, wild: bool, role: str, marks: Iterator[str]
) -> tuple[dict[str, Any], Said]:
    text, mark = _text(draw, known, wild, next(marks))
    message: dict[str, Any] = {"role": role, "content": text}
    thought = ""
    if role == "assistant" and (known.thought or wild) and once_in(draw, 3):
        inner, _ = _text(draw, known, False, next(marks))
        thought = inner.strip()
        if known.thought is None or known.name in APART or once_in(draw, 2):
            message[draw(THOUGHT_KEYS)] = thought
        else:
            message["content"] = known.thought[0] + thought + known.thought[1] + text
    if once_in(draw, 6):
        message |= {"tool_calls": None, "name": None}
    if message["content"] == text and once_in(draw, 6):
        cut = draw(PLACE)
        message["content"] = [{"type": "text", "text": part} for part in (text[:cut], text[cut:])]
    return message, Said(role=role, text=text, mark=mark, thought=thought)


def _text(draw: st.DrawFn, known: Family, wild: bool, mark: str) -> tuple[str, str]:
    """(text, its mark); the mark is "" in an empty one, which only the wild say."""
    kind = draw(IN[10])
    if wild and kind == 10:
        return draw(NOTHING), ""
    words: tuple[str, ...] = HARMLESS
    if kind == 9:
        words = (*HARMLESS, *TRICKY)
    elif kind == 8:
        words = (*HARMLESS[:4], *known.tokens)
    elif kind == 7 and wild:
        words = (*HARMLESS, OUTSIDE_UNICODE)
    around = draw(pieces(words))
    place = min(draw(PLACE), len(around))
    return "".join((*around[:place], mark, *around[place:])), mark


def _called(draw: st.DrawFn, known: Family, wild: bool, marks: Iterator[str]) -> list[tuple[dict[str, Any], Said]]:
    """An assistant's message with tool calls, and the results."""
    number = draw(IN[2]) if not known.name.startswith("llama") or wild else 1
    asked, understood, results = [], [], []
    for index in range(number):
        name, value, identity = f"look_{next(marks)}", next(marks), f"abcdefgh{index}"
        arguments: Any = {"what": value + draw(ENDINGS)}
        understood.append((name, (value,)))
        if once_in(draw, 2):
            arguments = json.dumps(arguments, ensure_ascii=False)
        asked.append({"type": "function", "id": identity, "function": {"name": name, "arguments": arguments}})
        mark = next(marks)
        answer = {"role": "tool", "content": f"found {mark}", "tool_call_id": identity, "name": name}
        results.append((answer, Said(role="tool", text=answer["content"], mark=mark)))
    mark, content = "", draw(BESIDE_CALLS)
    if content == "text" and known.name != "gpt_oss":
        mark = next(marks)
        content = f"Let me see {mark}"
    elif content == "text":
        content = ""
    message = {"role": "assistant", "content": content, "tool_calls": asked}
    return [(message, Said(role="assistant", text=content or "", mark=mark, calls=tuple(understood))), *results]
