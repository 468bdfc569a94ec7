"""1 when the last \\boxed{...} of the completion is mathematically the reference answer, else 0.

The last box counts, nested braces included, and none inside a think block. Boxes that differ are wrong, unless the
last one is called the answer ("so the answer is \\boxed{4}"); boxes joined by commas are one list. Numbers,
expressions, sets and the like are compared exactly. No box, an unclosed box, and an answer that is too large or not
carried out (a bare sum, a factorial, a tower of powers) score 0 with a `parse` note. A reference that cannot be read
is a `gold` fault.
"""

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, gold_text, verdict
from alignkit.rewards.verify.answers import boxed
from alignkit.rewards.verify.compare_answers import same_final_math
from alignkit.rewards.verify.math_equal import UnreadableGold
from alignkit.rewards.verify.thoughts import spoken
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task


@reward
def boxed_answer(completion: str, task: Task) -> Score:
    gold = gold_text(task)
    try:
        right = same_final_math(gold or "", boxed(spoken(completion)))
    except UnreadableGold as error:
        return bad_gold(task, "boxed_answer", f"a mathematical answer ({error})")
    return verdict(right, "boxed_answer")


SELF_TEST = (
    Case(completion=r"Thus \boxed{\frac{1}{2}}.", reference=r"\frac12", expected=1),
    Case(completion=r"\boxed{0.5}", reference=r"\frac{1}{2}", expected=1),
    Case(completion=r"\boxed{x^2+2x+1}", reference=r"(x+1)^2", expected=1),
    Case(completion=r"\boxed{3} and then \boxed{4}", reference="3", expected=0),
    Case(completion=r"\boxed{3} and then \boxed{4}", reference="4", expected=0),
    Case(completion=r"\boxed{3}, thus the answer is \boxed{4}", reference="4", expected=1),
    Case(completion=r"\boxed{1} and \boxed{2}", reference="2, 1", expected=1),
    Case(completion=r"\boxed{10^{-8}}", reference="0", expected=0),
    Case(completion=r"\boxed{11011_3}", reference="11011_2", expected=0),
    Case(completion=r"<think>\boxed{3}</think> three", reference="3", expected=0),
    Case(completion="3", reference="3", expected=0),
    Case(completion=r"\boxed{3", reference="3", expected=0),
    Case(completion=r"\boxed{9^{9^{9}}}", reference="3", expected=0),
    Case(completion=r"\boxed{3}", reference=r"we find \boxed{3}", expected=1),
    Case(completion=r"\boxed{3}", reference="", expected=FaultKind.GOLD),
    Case(completion="no box", reference="forty-two", expected=FaultKind.GOLD),
)
