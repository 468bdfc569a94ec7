"""What must hold of any row, told from the messages and the decoded text alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tests.families import Family
from tests.fuzz.conversations import Conversation, Said
from tests.fuzz.doors import Learnt

ANSWER_SYNTAX = {
    "gpt_oss": ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>", "<|end|><|start|>assistant"),
    "seed_oss": ("<seed:think>", "</seed:think>"),
}
"""What a template writes inside an answer around thoughts and words, where `Family.thought` does not say it all."""


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def squashed(text: str, known: Family) -> str:
    """Without white space, without the template's own marks of thoughts."""
    for mark in (*ANSWER_SYNTAX.get(known.name, ()), *(known.thought or ())):
        text = text.replace(mark.strip(), "")
    return re.sub(r"\s+", "", text)


def learnt_texts(tokenizer: Any, seen: Learnt) -> list[str]:
    return [decoded(tokenizer, seen.ids[start:end]) for start, end in seen.runs]


def marks(one: Said) -> list[str]:
    """Every mark of a message: of its text, its thought and its calls."""
    called = [part for name, values in one.calls for part in (name.removeprefix("look_"), *values)]
    return [*re.findall(r"m\d+q", one.thought), *filter(None, [one.mark]), *called]


def check_only_answers_are_learnt(conversation: Conversation, texts: Sequence[str], answers: Sequence[Said]) -> None:
    """No mark of another message is in what is learnt, every mark of the answers is there once."""
    together = "\0".join(texts)
    for one in conversation.said:
        wanted = int(any(one is answer for answer in answers))
        for mark in marks(one):
            assert together.count(mark) == wanted, f"{mark} of {one.role} is learnt {together.count(mark)} times"


def check_every_letter_is_learnt(known: Family, tokenizer: Any, texts: Sequence[str], answers: Sequence[Said]) -> None:
    """What is learnt is what was said and one end for each turn, nothing else but white space and marks of thoughts."""
    ends = {token for token in tokenizer.all_special_tokens if token != known.bos or token == known.eos}
    bodies = []
    for text in texts:
        end = next((token for token in sorted(ends, key=len, reverse=True) if text.endswith(token)), None)
        assert end is not None, f"{text[-40:]!r} does not end with a token that ends a turn"
        bodies.append(text.removesuffix(end))
    if any(answer.calls for answer in answers):
        return
    if len(texts) == len(answers):
        for body, text, answer in zip(bodies, texts, answers, strict=True):
            said = squashed(answer.thought + answer.text, known)
            ended = known.turn_end is None and squashed(text, known) == said  # it said the end itself
            assert ended or squashed(body, known) == said, f"{text!r} is learnt of {answer.thought!r} {answer.text!r}"
    else:  # turns that nothing separates are learnt in one run
        assert len(texts) < len(answers)
        got = squashed("".join(texts), known)
        for answer in answers:
            body = squashed(answer.thought + answer.text, known)
            assert got.startswith(body), f"{got[:40]!r} should go on with {body[:40]!r}"
            rest = got.removeprefix(body)
            got = next((rest.removeprefix(end) for end in ends if rest.startswith(end)), rest)
        assert got == ""


def check_calls_are_learnt(texts: Sequence[str], answers: Sequence[Said]) -> None:
    """Names and values of calls are in what is learnt, in order."""
    together, place = "\0".join(texts), 0
    for answer in answers:
        for name, values in answer.calls:
            for part in (name, *values):
                found = together.find(part, place)
                assert found >= 0, f"{part} of a call is not learnt"
                place = found + len(part)
