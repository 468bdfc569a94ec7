"""1 when the completion is the reference text, ignoring white space around it (and, if asked, case), else 0.

Thoughts do not count, unless the reference itself is written with them.
"""

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, verdict
from alignkit.rewards.verify.thoughts import spoken
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task


@reward
def exact_match(completion: str, task: Task, *, ignore_case: bool = False) -> Score:
    is_number = isinstance(task.reference, int | float) and not isinstance(task.reference, bool)
    gold = str(task.reference).strip()
    answer = (completion if spoken(gold) != gold else spoken(completion)).strip()
    if not gold or not (is_number or isinstance(task.reference, str)):
        return bad_gold(task, "exact_match", "text or a number")
    if ignore_case:
        gold, answer = gold.casefold(), answer.casefold()
    return verdict(gold == answer, "exact_match")


SELF_TEST = (
    Case(completion=" even\n", reference="even", expected=1),
    Case(completion="64", reference=64, expected=1),
    Case(completion="Even", reference="even", expected=0),
    Case(completion="Even", reference="even", options={"ignore_case": True}, expected=1),
    Case(completion="even.", reference="even", expected=0),
    Case(completion="<think>odd?</think>\neven", reference="even", expected=1),
    Case(completion="<think>even", reference="even", expected=0),
    Case(completion="<think>a</think>b", reference="<think>a</think>b", expected=1),
    Case(completion="", reference="even", expected=0),
    Case(completion="", reference=None, expected=FaultKind.GOLD),
)
