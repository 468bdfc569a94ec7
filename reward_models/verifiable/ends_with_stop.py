"""1 when the policy ended its last turn itself, with a stop token; 0 when it was cut off."""

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case
from alignkit.types.rollout import Rollout, StopReason
from alignkit.types.task import Task


@reward
def ends_with_stop(completion: str, task: Task, *, rollout: Rollout) -> float:
    return float(rollout.turns[-1].stop is StopReason.END_OF_TEXT)


SELF_TEST = (
    Case(completion="done", expected=1),
    Case(completion="and th", stop=StopReason.LENGTH, expected=0),
    Case(completion="and th", stop=StopReason.CONTEXT_FULL, expected=0),
)
