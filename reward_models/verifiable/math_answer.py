"""1 when the completion's final answer is mathematically the reference answer, in whatever form it is given, else 0.

The answer is the last \\boxed{...} (differing boxes as in `boxed_answer`), else what follows the last `####`, else
what is called the answer in the last statement ("the answer is", "Antwort:", in some 35 languages), else the last
number that stands for itself; where there is an `<answer>` tag, only what stands in it counts. What is stated is the
answer: a number elsewhere is no second guess, and `not 42`, `41 or 42`, `eval('42')` are none. Comparison as in
`boxed_answer`.
"""

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, gold_text, verdict
from alignkit.rewards.verify.answers import find_answer
from alignkit.rewards.verify.compare_answers import same_final_math
from alignkit.rewards.verify.math_equal import UnreadableGold
from alignkit.rewards.verify.thoughts import spoken
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task


@reward
def math_answer(completion: str, task: Task) -> Score:
    try:
        right = same_final_math(gold_text(task) or "", find_answer(spoken(completion)))
    except UnreadableGold as error:
        return bad_gold(task, "math_answer", f"a mathematical answer ({error})")
    return verdict(right, "math_answer")


SELF_TEST = (
    Case(completion=r"\boxed{2\sqrt{3}}", reference=r"\sqrt{12}", expected=1),
    Case(completion=r"The answer is $\frac{3}{4}$.", reference="0.75", expected=1),
    Case(completion="Answer: (1, 2)", reference=r"\left(1,2\right)", expected=1),
    Case(completion="so there are 42 of them", reference="42", expected=1),
    Case(completion="#### 42", reference="42", expected=1),
    Case(completion=r"\boxed{41} is near 42", reference="42", expected=0),
    Case(completion="The answer is 41.", reference="42", expected=0),
    Case(completion=r"<think>41</think><answer>$x = \frac{84}{2}$</answer> not 43", reference="42", expected=1),
    Case(completion="The answer is 41. It is not 42.", reference="42", expected=0),
    Case(completion="The answer is 41 or 42.", reference="42", expected=0),
    Case(completion="La respuesta es 42. Quedan 3.", reference="42", expected=1),
    Case(completion="答案是四十二。", reference="42", expected=1),
    Case(completion="so there are 42", reference="20 + 22 = 42 sheep.\nA: 42", expected=FaultKind.GOLD),
    Case(completion="I cannot say", reference="42", expected=0),
    Case(completion="42", reference=None, expected=FaultKind.GOLD),
)
