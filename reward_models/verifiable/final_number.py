"""1 when the number that the completion gives as its answer equals the reference number, else 0.

The answer is found as in `math_answer`: a box, `####` or a statement ("the answer is") decides; only where there is
none, the last number, if it stands for itself. Reads 1,234 and 1234.50, .5, 3/4, 1 3/4, \\frac{3}{4}, 2e5, 50%, $12,
digits of all scripts, groups and decimal commas; compares exactly. A completion without a number, or with an open
think block, scores 0 with a `parse` note. References: a number, its text, or a solution that ends in `#### n` or
`\\boxed{n}`.
"""

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, gold_text, verdict
from alignkit.rewards.verify.answers import find_answer
from alignkit.rewards.verify.compare_answers import same_final_number
from alignkit.rewards.verify.numerals import read_single
from alignkit.rewards.verify.thoughts import spoken
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task


@reward
def final_number(completion: str, task: Task) -> Score:
    gold = read_single(gold_text(task) or "")
    if gold is None:
        return bad_gold(task, "final_number", "a number")
    return verdict(same_final_number(gold, find_answer(spoken(completion))), "final_number")


SELF_TEST = (
    Case(completion="7 + 5 = 12", reference=12, expected=1),
    Case(completion="The answer is 1,234.", reference="1234", expected=1),
    Case(completion="so we get −3.50", reference="-7/2", expected=1),
    Case(completion="half of it, 50%", reference=0.5, expected=1),
    Case(completion="12 or 13", reference=12, expected=0),
    Case(completion="<think>12</think> I do not know", reference=12, expected=0),
    Case(completion="twelve", reference=12, expected=0),
    Case(completion="The answer is 12. There were 13 at first.", reference=12, expected=1),
    Case(completion="Die Antwort ist 1.234,5.", reference="1234.5", expected=1),
    Case(completion="The answer is not 12", reference=12, expected=0),
    Case(completion="eval('12')", reference=12, expected=0),
    Case(completion="#### 12", reference="5 + 7 = 12\n#### 12", expected=1),
    Case(completion="12", reference="a dozen", expected=FaultKind.GOLD),
    Case(completion="12", reference=None, expected=FaultKind.GOLD),
)
