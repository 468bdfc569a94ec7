"""1 when the number after the last `####` of the completion equals the reference number, else 0.

GSM8K's own strict format; the line after the mark states one number, with a unit or not. The reference may be the
number or the data set's whole solution text. A completion without `####` and a number after it scores 0 with a `parse`
note.
"""

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, gold_text, verdict
from alignkit.rewards.verify.answers import after_hashes, find_answer
from alignkit.rewards.verify.compare_answers import same_final_number
from alignkit.rewards.verify.numerals import read_single
from alignkit.rewards.verify.thoughts import spoken
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task


@reward
def gsm8k_answer(completion: str, task: Task) -> Score:
    gold = read_single(gold_text(task) or "")
    if gold is None:
        return bad_gold(task, "gsm8k_answer", "a number, or a solution that ends in `#### number`")
    line = after_hashes(spoken(completion))
    return verdict(same_final_number(gold, find_answer(f"#### {line}") if line else None), "gsm8k_answer")


SELF_TEST = (
    Case(completion="48 / 2 = 24\n#### 24", reference="24", expected=1),
    Case(completion="#### $1,080", reference="40 * 27 = 1080\n#### 1,080", expected=1),
    Case(completion="#### 24\n#### 25", reference="24", expected=0),
    Case(completion="The answer is 24.", reference="24", expected=0),
    Case(completion="#### 24 or 25", reference="25", expected=0),
    Case(completion="#### ", reference="24", expected=0),
    Case(completion="#### 24", reference="no number", expected=FaultKind.GOLD),
)
