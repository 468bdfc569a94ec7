"""1 when the completion picks the reference's letter of a multiple-choice question, else 0.

The pick is, in this order: what stands in a box; the last statement of an answer ("the answer is (B)", "正解はB"); a
completion that is or starts with the letter ("B", "(b)", "B. because"); a letter that is called right or chosen
("option C is correct"); the only letter in brackets that is not ruled out. Small, full-width and look-alike letters of
other alphabets count as well; several letters, a denied one, one that is not in `letters`, and the words "a" and "I"
do not. Where there is an `<answer>` tag, only what stands in it counts, and a letter that is the only one in it is a
pick too (MM-Eureka). `form: think_answer` also demands exactly `<think>...</think><answer>...</answer>` (Med-RLVR): a
letter among the thoughts, or thoughts outside of them, score 0. References: a letter, text such as "B. aspirin", or a
number counted from 0.
"""

from typing import Literal

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, verdict
from alignkit.rewards.verify.letters import only_letter, picked_letter, plain_letters, reference_letter
from alignkit.rewards.verify.thoughts import spoken, tagged_answer, think_answer
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task


@reward
def choice_letter(
    completion: str, task: Task, *, letters: str = "ABCDEFGHIJ", form: Literal["free", "think_answer"] = "free"
) -> Score:
    gold = reference_letter(task.reference, letters)
    if gold is None:
        return bad_gold(task, "choice_letter", f"one of the letters {letters}, or its number counted from 0")
    tagged = think_answer(completion) if form == "think_answer" else tagged_answer(spoken(completion))
    if tagged is None:
        answer = picked_letter(spoken(completion), letters) if form == "free" else None
    else:
        answer = picked_letter(tagged, letters) or only_letter(plain_letters(tagged, letters), letters)
    return verdict(None if answer is None else answer == gold, "choice_letter")


MEDICAL = {"form": "think_answer", "letters": "ABCDE"}

SELF_TEST = (
    Case(completion="B", reference="B", expected=1),
    Case(completion="(B) because of that", reference=1, expected=1),
    Case(completion="B. aspirin", reference="B. aspirin", expected=1),
    Case(completion="First I thought the answer is A, but the answer is **C**.", reference="C", expected=1),
    Case(completion=r"\boxed{\text{D}}", reference="D", expected=1),
    Case(completion="A patient like this needs (C).", reference="C", expected=1),
    Case(completion="The answer is B because A is too large.", reference="b", expected=1),
    Case(completion="The answer isn't A but C.", reference="C", expected=1),
    Case(completion="B or C", reference="B", expected=0),
    Case(completion="The answer is a mystery. I would say none.", reference="A", expected=0),
    Case(completion="ANSWER: E", reference="E", options={"letters": "ABCD"}, expected=FaultKind.GOLD),
    Case(completion="Answer: E", reference="D", options={"letters": "ABCD"}, expected=0),
    Case(completion="The answer is A", reference="B", expected=0),
    Case(completion="A or B? <answer>I choose B, of course</answer>", reference="B", expected=1),
    Case(completion="<answer>B or C, of course</answer>", reference="B", expected=0),
    Case(completion="<think>A?</think><answer>B. aspirin</answer>", reference="B", options=MEDICAL, expected=1),
    Case(completion="<think>A?</think><answer>A</answer>", reference="B", options=MEDICAL, expected=0),
    Case(completion="<think>It is B.</think><answer>it</answer>", reference="B", options=MEDICAL, expected=0),
    Case(completion="As I think: <think></think><answer>B</answer>", reference="B", options=MEDICAL, expected=0),
    Case(completion="The answer is B.", reference="B", options=MEDICAL, expected=0),
    Case(completion="B", reference="none", expected=FaultKind.GOLD),
)
