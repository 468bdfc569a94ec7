"""1 when the last \\boxed{...} of the completion is mathematically the reference answer, else 0.

Only the last box counts, nested braces included, and none inside a think block. Equal text and equal numbers are
settled at once; the rest goes to math-verify, bounded by the pool's deadline. No box, an unclosed box, and an answer
that is too large or not carried out (a bare sum, a factorial, a tower of powers) score 0 with a `parse` note.
"""

from alignkit.rewards.answers import last_boxed, spoken
from alignkit.rewards.base import reward
from alignkit.rewards.math_equal import UnreadableGold, same_math
from alignkit.rewards.verdict import Case, bad_gold, gold_text, verdict
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task


@reward
def boxed_answer(completion: str, task: Task) -> Score:
    gold = gold_text(task)
    try:
        right = same_math(gold or "", last_boxed(spoken(completion)) or "")
    except UnreadableGold as error:
        return bad_gold(task, "boxed_answer", f"a mathematical answer ({error})")
    return verdict(right, "boxed_answer")


SELF_TEST = (
    Case(completion=r"Thus \boxed{\frac{1}{2}}.", reference=r"\frac12", expected=1),
    Case(completion=r"\boxed{0.5}", reference=r"\frac{1}{2}", expected=1),
    Case(completion=r"\boxed{x^2+2x+1}", reference=r"(x+1)^2", expected=1),
    Case(completion=r"\boxed{3} and then \boxed{4}", reference="3", expected=0),
    Case(completion=r"<think>\boxed{3}</think> three", reference="3", expected=0),
    Case(completion="3", reference="3", expected=0),
    Case(completion=r"\boxed{3", reference="3", expected=0),
    Case(completion=r"\boxed{9^{9^{9}}}", reference="3", expected=0),
    Case(completion=r"\boxed{3}", reference=r"we find \boxed{3}", expected=1),
    Case(completion=r"\boxed{3}", reference="", expected=FaultKind.GOLD),
)
