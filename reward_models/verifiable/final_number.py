"""1 when the last number of the completion equals the reference number, else 0.

Reads 1,234 and 1234.50, .5, 3/4, 1 3/4, \\frac{3}{4}, 2e5, 50%, $12 and minus signs; compares exactly. A completion
without a number, or with an open think block, scores 0 with a `parse` note. References: a number, its text, or a
solution that ends in `#### n` or `\\boxed{n}`.
"""

from alignkit.rewards.answers import last_number, read_number, same_number, spoken
from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, gold_text, verdict
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task


@reward
def final_number(completion: str, task: Task) -> Score:
    gold = read_number(gold_text(task) or "")
    if gold is None:
        return bad_gold(task, "final_number", "a number")
    answer = last_number(spoken(completion))
    return verdict(same_number(gold, answer), "final_number")


SELF_TEST = (
    Case(completion="7 + 5 = 12", reference=12, expected=1),
    Case(completion="The answer is 1,234.", reference="1234", expected=1),
    Case(completion="so we get −3.50", reference="-7/2", expected=1),
    Case(completion="half of it, 50%", reference=0.5, expected=1),
    Case(completion="12 or 13", reference=12, expected=0),
    Case(completion="<think>12</think> I do not know", reference=12, expected=0),
    Case(completion="twelve", reference=12, expected=0),
    Case(completion="#### 12", reference="5 + 7 = 12\n#### 12", expected=1),
    Case(completion="12", reference="a dozen", expected=FaultKind.GOLD),
    Case(completion="12", reference=None, expected=FaultKind.GOLD),
)
