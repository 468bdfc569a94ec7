"""Whether the final answer of a completion is the reference: as a number, or as mathematics."""

from __future__ import annotations

import re

from alignkit.rewards.verify.answers import Answer
from alignkit.rewards.verify.math_equal import UnreadableGold, same_math
from alignkit.rewards.verify.numerals import Number, read_single, same_number
from alignkit.rewards.verify.quantities import read_amount, read_quantity

_ASSIGNED = re.compile(r"^\$?\s?[a-zA-Z]\s?=\s?")


def same_final_number(gold: Number, answer: Answer | None) -> bool | None:
    """None when no number can be read; False also where the completion gives another number with the same claim."""
    if answer is None:
        return None
    number = answer_number(answer.text)
    right = same_number(gold, number)
    if number and right and any(not same_number(number, answer_number(other)) for other in answer.others):
        return False
    return right


def answer_number(text: str) -> Number | None:
    """A number, alone, with a unit, with a noun or behind `x =`."""
    text = re.sub(r"^\((-?[0-9.,]+)\)$", r"\1", _ASSIGNED.sub("", text.strip()))
    quantity = read_quantity(text) or read_amount(text)
    return read_single(text) or (quantity[0] if quantity else None)


def same_final_math(gold: str, answer: Answer | None) -> bool | None:
    """As `same_math`; False also where the completion gives another answer with the same claim."""
    right = same_math(gold, answer.text if answer else "")
    if right and answer and any(not _agree(answer.text, other) for other in answer.others):
        return False
    return right


def _agree(one: str, other: str) -> bool | None:
    try:
        return same_math(one, other)
    except UnreadableGold:
        return False
