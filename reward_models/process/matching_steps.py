"""1 for each step of the completion that is the reference's step at the same place, else 0; the value is their share.

Options: `split` (blank_line, newline or sentence) or `pattern`, an expression after whose matches steps end; with
`(?<=.)` every character is one. Steps are compared without the white space around them. Those beyond the reference are
wrong, and those that are missing count in the value. For rewards on the way: `steps: {returns: mean}` and the like.
"""

from alignkit.rewards.base import reward
from alignkit.rewards.steps import Rule, split_steps
from alignkit.rewards.verdict import Case, bad_gold, gold_text
from alignkit.types.score import FaultKind, Score, StepScore
from alignkit.types.task import Task


@reward
def matching_steps(completion: str, task: Task, split: Rule = "newline", pattern: str | None = None) -> Score:
    gold = gold_text(task)
    if not gold:
        return bad_gold(task, "matching_steps", "text")
    wanted = [gold[span.start : span.end].strip() for span in split_steps(gold, split, pattern=pattern)]
    spans = split_steps(completion, split, pattern=pattern)
    said = [completion[span.start : span.end].strip() for span in spans]
    right = [float(place < len(wanted) and one == wanted[place]) for place, one in enumerate(said)]
    value = sum(right) / max(len(wanted), len(said))
    steps = tuple(StepScore(span.end, score) for span, score in zip(spans, right, strict=True))
    return Score(value=value, parts={"matching_steps": value}, steps=steps)


SELF_TEST = (
    Case(completion="3 + 4 = 7\n7 * 2 = 14", reference="3 + 4 = 7\n7 * 2 = 14", expected=1),
    Case(completion="3 + 4 = 7\n7 * 2 = 15", reference="3 + 4 = 7\n7 * 2 = 14", expected=0.5),
    Case(completion="3 + 4 = 7\n7 * 2 = 14\nso 14", reference="3 + 4 = 7\n7 * 2 = 14", expected=2 / 3),
    Case(completion="", reference="3 + 4 = 7", expected=0),
    Case(completion="7", reference=None, expected=FaultKind.GOLD),
)
