"""Splits text into reasoning steps, and finds the policy's tokens that complete them. Knows no tokenizer.

The judge of steps may read text another way than the policy does, so steps are spans of characters; which characters
the policy's tokens wrote is found by decoding them (`settled_ends`).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

UNFINISHED = "\ufffd"  # what part of a character is decoded to
Rule = Literal["blank_line", "newline", "sentence"]

_ENDS: dict[str, str] = {
    "blank_line": r"\r?\n[ \t]*(?:\r?\n[ \t]*)+",
    "newline": r"(?:\r?\n[ \t]*)+",
    # not after a lone capital (an initial), nor after the number of a list item, nor inside 3.5; a run of marks is one
    # end, found from its first mark only, which keeps a million dots linear
    "sentence": r"(?<![.!?])(?:(?<!\b[A-Z])(?<!^\d)(?<!^\d\d)[.!?]++[\"')\]}”’]*+(?=\s)|[。！？]++)\s*+|(?:\r?\n\s*+)+",
}


@dataclass(frozen=True, slots=True)
class Span:
    """Characters start..end (end excluded) of a text."""

    start: int
    end: int


def split_steps(text: str, rule: Rule = "blank_line", *, pattern: str | None = None) -> list[Span]:
    """The steps of a text, in order: together they are the whole text, character by character.

    rule: steps end after a blank line, after a newline, or after a sentence (or a newline). pattern: a regular
    expression that replaces the rule; a step ends after each match, so a step tag closes the step that it follows.
    Separators belong to the step before them; what is only white space or only separators is no step of its own.
    An empty text has no step.
    """
    ends: list[int] = []
    start = 0
    for match in re.finditer(pattern or _ENDS[rule], text, re.MULTILINE):
        if text[start : match.start()].strip():
            ends.append(match.end())
        elif ends:
            ends[-1] = match.end()
        start = match.end() if ends else 0
    if text[start:].strip() or not ends:
        ends.append(len(text))
    ends[-1] = len(text)
    return [Span(first, last) for first, last in pairwise([0, *ends]) if last > first]


def settled_ends(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[int]:
    """For each token how many characters of the whole text are written once it is there, known from decoding alone.

    Characters that later tokens would still change (the first half of an emoji) do not count yet. It needs nothing from
    the tokenizer but `decode`; where a few tokens cannot be decoded by themselves, or the bytes are no text, it costs
    the decoding of every prefix.
    """
    whole = decode(ids)
    ends = _windowed_ends(decode, ids, whole)
    if ends is None:
        ends = [_agreement(whole, decode(ids[: count + 1])) for count in range(len(ids))]
    return list(accumulate(ends, max))


def last_tokens(settled: Sequence[int], ends: Sequence[int]) -> list[int]:
    """For each end of a step the index of the token that completes it: the first after which its text is settled.

    A token that reaches into the next step completes this one all the same. Raises ValueError when the tokens' text
    ends before a step does. settled: from `settled_ends`.
    """
    tokens = [bisect_left(settled, end) for end in ends]
    if tokens and max(tokens) >= len(settled):
        raise ValueError(f"a step ends at character {max(ends)}; the tokens end at {max(settled, default=0)}")
    return tokens


def step_cuts(ends: Sequence[int], text: str, steps: Sequence[Span]) -> list[int]:
    """For each step the number of tokens after which a model may go on from there.

    As many as stay within the step, so that nothing of the next one is given away; where a token reaches from the
    step's last word into the next step, that token, too. ends: from `settled_ends`, of the tokens of `text`.
    """
    cuts = []
    for step in steps:
        content = step.start + len(text[step.start : step.end].rstrip())
        within = max((end for end in ends if end <= step.end), default=0)
        wanted = within if within >= content else content
        cuts.append(next((count for count, end in enumerate(ends, start=1) if end >= wanted), len(ends)))
    return cuts


def _windowed_ends(decode: Callable[[Sequence[int]], str], ids: Sequence[int], whole: str) -> list[int] | None:
    """`settled_ends` in linear time: each token is decoded after the few before it. None where that is not the text."""
    if UNFINISHED in whole:
        return None
    ends: list[int] = []
    begin = read = done = 0
    for count in range(1, len(ids) + 1):
        before, after = decode(ids[begin:read]), decode(ids[begin:count])
        fresh = after[len(before) :].rstrip(UNFINISHED)
        if not whole.startswith(fresh, done):
            return None
        ends.append(done + len(fresh))
        if fresh and not after.endswith(UNFINISHED):
            begin, read, done = read, count, ends[-1]
    return ends if done == len(whole) else None


def _agreement(whole: str, begun: str) -> int:
    """How many characters both begin with."""
    pairs = zip(whole, begun, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(whole), len(begun)))
