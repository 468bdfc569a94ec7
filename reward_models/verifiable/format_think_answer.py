"""1 for exactly `<think>...</think><answer>...</answer>`: each tag once, an answer inside, nothing around; else 0."""

import re

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case
from alignkit.types.task import Task

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
FORM = re.compile(r"\s*<think>.*</think>\s*<answer>.*\S.*</answer>\s*", re.DOTALL)


@reward
def format_think_answer(completion: str, task: Task) -> float:
    return float(all(completion.count(tag) == 1 for tag in TAGS) and FORM.fullmatch(completion) is not None)


SELF_TEST = (
    Case(completion="<think>5 + 7</think>\n<answer>12</answer>", expected=1),
    Case(completion="<think></think><answer>12</answer>\n", expected=1),
    Case(completion="<think>a</think><answer> </answer>", expected=0),
    Case(completion="<think>a</think>12", expected=0),
    Case(completion="<think>a</think><answer>1</answer><answer>2</answer>", expected=0),
    Case(completion="Well, <think>a</think><answer>1</answer>", expected=0),
    Case(completion="<answer>1</answer><think>a</think>", expected=0),
    Case(completion="", expected=0),
)
