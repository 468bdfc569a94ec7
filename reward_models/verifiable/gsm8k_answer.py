"""1 when the number after the last `####` of the completion equals the reference number, else 0.

GSM8K's own strict format. The reference may be the number or the data set's whole solution text. A completion without
`####` and a number after it scores 0 with a `parse` note.
"""

from alignkit.rewards.answers import after_hashes, last_number, read_number, same_number, spoken
from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, gold_text, verdict
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task


@reward
def gsm8k_answer(completion: str, task: Task) -> Score:
    gold = read_number(gold_text(task) or "")
    if gold is None:
        return bad_gold(task, "gsm8k_answer", "a number, or a solution that ends in `#### number`")
    answer = last_number(after_hashes(spoken(completion)) or "")
    return verdict(same_number(gold, answer), "gsm8k_answer")


SELF_TEST = (
    Case(completion="48 / 2 = 24\n#### 24", reference="24", expected=1),
    Case(completion="#### $1,080", reference="40 * 27 = 1080\n#### 1,080", expected=1),
    Case(completion="#### 24\n#### 25", reference="24", expected=0),
    Case(completion="The answer is 24.", reference="24", expected=0),
    Case(completion="#### ", reference="24", expected=0),
    Case(completion="#### 24", reference="no number", expected=FaultKind.GOLD),
)
