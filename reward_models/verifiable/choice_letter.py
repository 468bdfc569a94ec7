"""1 when the completion picks the reference's letter of a multiple-choice question, else 0.

The pick is, in this order: the last \\boxed{B}; the last "answer is (B)" or "Answer: B"; a completion that is or starts
with the letter alone ("B", "(B)", "B. because"); the last letter in brackets, "(B)". A letter that is not in `letters`
is no pick, and neither is the word "A". References: a letter, text such as "B. aspirin", or a number counted from 0.
"""

import re

from alignkit.rewards.answers import last_boxed, spoken
from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, verdict
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

ALONE = re.compile(r"\s*\W{0,3}(?P<letter>[A-Z])(?:\W{0,3}\s*$|[.):]\s|\*\*)")
STATED = re.compile(
    r"answer\W{0,4}(?:is|:)?\W{0,12}(?:option\s|choice\s)?\W{0,12}(?P<letter>[A-Z])(?![\w'])(?!\s[a-z])"
)
BRACKETED = re.compile(r"\((?P<letter>[A-Z])\)")


@reward
def choice_letter(completion: str, task: Task, *, letters: str = "ABCDEFGHIJ") -> Score:
    gold = reference_letter(task.reference, letters)
    if gold is None:
        return bad_gold(task, "choice_letter", f"one of the letters {letters}, or its number counted from 0")
    answer = picked_letter(spoken(completion), letters)
    return verdict(None if answer is None else answer == gold, "choice_letter")


def reference_letter(reference: object, letters: str) -> str | None:
    if isinstance(reference, int) and not isinstance(reference, bool):
        return letters[reference] if 0 <= reference < len(letters) else None
    found = ALONE.match(reference) if isinstance(reference, str) else None
    return found["letter"] if found and found["letter"] in letters else None


def picked_letter(text: str, letters: str) -> str | None:
    boxed = last_boxed(re.sub(r"\\(?:text|mathrm|textbf|mathbf)\b", "", text))
    found = [ALONE.match(boxed.strip("{}"))] if boxed else []
    lowered = re.sub(r"(?i)answer", "answer", text)
    found += [*list(STATED.finditer(lowered))[-1:], ALONE.match(text), *list(BRACKETED.finditer(text))[-1:]]
    picks = [match["letter"] for match in found if match and match["letter"] in letters]
    return picks[0] if picks else None


SELF_TEST = (
    Case(completion="B", reference="B", expected=1),
    Case(completion="(B) because of that", reference=1, expected=1),
    Case(completion="B. aspirin", reference="B. aspirin", expected=1),
    Case(completion="First I thought the answer is A, but the answer is **C**.", reference="C", expected=1),
    Case(completion=r"\boxed{\text{D}}", reference="D", expected=1),
    Case(completion="A patient like this needs (C).", reference="C", expected=1),
    Case(completion="The answer is a mystery. I would say none.", reference="A", expected=0),
    Case(completion="ANSWER: E", reference="E", options={"letters": "ABCD"}, expected=FaultKind.GOLD),
    Case(completion="Answer: E", reference="D", options={"letters": "ABCD"}, expected=0),
    Case(completion="The answer is A", reference="B", expected=0),
    Case(completion="B", reference="none", expected=FaultKind.GOLD),
)
