"""The final answer of a math completion as text, for display and for majority votes. Linear time, nothing executed."""

from __future__ import annotations

from alignkit.rewards.verify.answers import find_answer, plain_math
from alignkit.rewards.verify.numerals import read_number, same_number
from alignkit.rewards.verify.thoughts import spoken

LONGEST = 200  # characters


def final_answer(completion: str) -> str | None:
    """What the verifiers take for the final answer (`find_answer`); None where they find none."""
    answer = find_answer(spoken(completion))
    return answer.text[:LONGEST] if answer and answer.text else None


def same_answer(first: str, second: str) -> bool | None:
    """Whether two answers are equal as text or as exact numbers; None when neither can be said cheaply."""
    if plain_math(first) == plain_math(second):
        return True
    numbers = read_number(first), read_number(second)
    return same_number(numbers[0], numbers[1]) if numbers[0] and numbers[1] else None
