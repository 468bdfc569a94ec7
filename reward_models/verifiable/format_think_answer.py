"""1 for exactly `<think>...</think><answer>...</answer>`: each tag once, an answer inside, nothing around; else 0.

`style: mm_eureka` allows text after it (its authors add it with `weight: 0.5`); `style: r1_omni` is R1-Omni's regular
expression, which also lets tags come again and the answer be empty. As a gate it makes the form a condition.
"""

from typing import Literal

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case
from alignkit.rewards.verify.thoughts import think_answer
from alignkit.types.task import Task


@reward
def format_think_answer(
    completion: str, task: Task, *, style: Literal["strict", "mm_eureka", "r1_omni"] = "strict"
) -> float:
    return float(think_answer(completion, style) is not None)


TWICE = "<think>a</think><answer>1</answer><answer>2</answer>"
AFTER = "<think>a</think><answer>1</answer> as I said"

SELF_TEST = (
    Case(completion="<think>5 + 7</think>\n<answer>12</answer>", expected=1),
    Case(completion="<think></think><answer>12</answer>\n", expected=1),
    Case(completion="<think>a</think><answer> </answer>", expected=0),
    Case(completion="<think>a</think>12", expected=0),
    Case(completion=TWICE, expected=0),
    Case(completion=AFTER, expected=0),
    Case(completion=AFTER, options={"style": "mm_eureka"}, expected=1),
    Case(completion=TWICE, options={"style": "mm_eureka"}, expected=0),
    Case(completion=TWICE, options={"style": "r1_omni"}, expected=1),
    Case(completion=AFTER, options={"style": "r1_omni"}, expected=0),
    Case(completion="Well, <think>a</think><answer>1</answer>", expected=0),
    Case(completion="<answer>1</answer><think>a</think>", options={"style": "mm_eureka"}, expected=0),
    Case(completion="", options={"style": "r1_omni"}, expected=0),
)
