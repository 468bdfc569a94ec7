"""RLSP's reward: 1 for a right boxed answer, 0 for a wrong one, -0.5 for none; less 1000 / length: short is bad.

The length is a quarter of the characters before the last box (of all of them without a box), about the tokens of
reasoning. The deduction ends at `most`: an answer without reasoning loses that much and not without bound. Without a
box the deduction counts too, so giving no answer never pays more than a wrong one of the same length. The optional
judge of effort is another reward beside this one, with `weight: 0.8` here and `weight: 0.2` there.
"""

from dataclasses import replace

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, gold_text, verdict
from alignkit.rewards.verify.answers import boxed
from alignkit.rewards.verify.compare_answers import same_final_math
from alignkit.rewards.verify.math_equal import UnreadableGold
from alignkit.rewards.verify.thoughts import spoken
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

CHARACTERS_PER_TOKEN = 4
NO_ANSWER = -0.5


@reward
def rlsp_exploration(completion: str, task: Task, *, scale: float = 1000.0, most: float = 1.0) -> Score:
    try:
        right = same_final_math(gold_text(task) or "", boxed(spoken(completion)))
    except UnreadableGold as error:
        return bad_gold(task, "rlsp_exploration", f"a mathematical answer ({error})")
    reasoning = completion if right is None else completion[: completion.rfind("\\boxed")]
    length = len(reasoning.strip()) / CHARACTERS_PER_TOKEN
    deduction = most if length * most <= scale else scale / length
    base = NO_ANSWER if right is None else float(right)
    score = verdict(right, "rlsp_exploration")
    return replace(
        score,
        value=base - deduction,
        parts={"rlsp_exploration": base - deduction, "base": base, "deduction": deduction},
    )


SELF_TEST = (
    Case(completion="a" * 4000 + r"\boxed{3}", reference="3", expected=0),
    Case(completion="a" * 16000 + r"\boxed{3}", reference="3", expected=0.75),
    Case(completion="a" * 16000 + r"\boxed{4}", reference="3", expected=-0.25),
    Case(completion=r"\boxed{3}", reference="3", expected=0),
    Case(completion=r"\boxed{4}", reference="3", expected=-1),
    Case(completion="a" * 16000, reference="3", expected=-0.75),
    Case(completion="", reference="3", expected=-1.5),
    Case(completion="<think>" + "a" * 7984 + r"\boxed{3}", reference="3", expected=-1.0),
    Case(completion=r"\boxed{3}", reference="", expected=FaultKind.GOLD),
)
