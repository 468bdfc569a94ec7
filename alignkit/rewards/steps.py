"""Splits text into reasoning steps, and finds the policy's tokens that complete them. Knows no tokenizer.

The judge of steps may read text another way than the policy does, so steps are spans of characters; the policy's tokens
come with the characters that they wrote (`character_offsets`).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

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


def character_offsets(pieces: Sequence[bytes]) -> list[Span]:
    """For each token's bytes the characters of the decoded text that it wrote, wholly or in part.

    The text is the bytes of all tokens decoded as UTF-8, invalid ones replaced, as tokenizers do. A token that writes
    part of a character gets that character, so neighbouring spans may overlap in one; a token without bytes gets an
    empty span.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    spans: list[Span] = []
    done = 0
    for piece in pieces:
        start = done
        done += len(decoder.decode(piece))
        pending = bool(decoder.getstate()[0])
        spans.append(Span(start, done + 1 if pending and piece else done))
    return spans


def last_tokens(offsets: Sequence[Span], steps: Sequence[Span]) -> list[int]:
    """For each step the index of the token that completes it: the last one that writes any of its characters.

    offsets: characters of each token, with starts that do not fall. A token that reaches into the next step completes
    this one all the same: only then is its text whole. Raises ValueError when the tokens' text ends before a step does.
    """
    results = []
    token = 0
    for step in steps:
        while token < len(offsets) and offsets[token].end < step.end:
            token += 1
        if token == len(offsets):
            raise ValueError(f"a step ends at character {step.end}; the tokens end before it")
        results.append(_last_writer(offsets, token, step))
    return results


def step_of_tokens(offsets: Sequence[Span], steps: Sequence[Span]) -> list[int]:
    """For each token the number of the step that it helps to complete; tokens after the last step belong to it."""
    results: list[int] = []
    for number, last in enumerate(last_tokens(offsets, steps)):
        results += [number] * (last + 1 - len(results))
    return results + [max(len(steps) - 1, 0)] * (len(offsets) - len(results))


def settled_ends(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[int]:
    """For each token how many characters of the whole text are written once it is there, known from decoding alone.

    Characters that later tokens would still change (the first half of an emoji) do not count yet. For the cost of
    decoding every prefix it needs nothing from the tokenizer but `decode`.
    """
    whole = decode(ids)
    return [_agreement(whole, decode(ids[: count + 1])) for count in range(len(ids))]


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


def _agreement(whole: str, begun: str) -> int:
    """How many characters both begin with."""
    if whole.startswith(begun):
        return len(begun)
    return next(place for place, (one, other) in enumerate(zip(whole, f"{begun}\0", strict=False)) if one != other)


def _last_writer(offsets: Sequence[Span], token: int, step: Span) -> int:
    """Of the tokens from `token` on that write the step's last character (parts of one emoji), the last one."""
    last = token
    while token + 1 < len(offsets) and offsets[token + 1].start < step.end:
        token += 1
        last = token if offsets[token].end >= step.end else last
    return last
