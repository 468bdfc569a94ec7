"""0 for completions up to `max_tokens - buffer` tokens, then falling linearly to -1 at `max_tokens`, -1 beyond.

DAPO's soft overlong punishment (arXiv 2503.14476, equation 13). Tokens are those that the policy sampled, in all of
its turns, the stop token included.
"""

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case
from alignkit.types.rollout import Rollout
from alignkit.types.task import Task


@reward
def length_penalty(completion: str, task: Task, *, rollout: Rollout, max_tokens: int, buffer: int) -> float:
    if not 0 <= buffer <= max_tokens:
        raise ValueError(f"buffer is {buffer}; wanted 0 to max_tokens ({max_tokens})")
    num_tokens = sum(len(turn.completion_ids) for turn in rollout.turns)
    overlong = num_tokens - (max_tokens - buffer)
    if overlong <= 0:
        return 0.0
    return -1.0 if overlong >= buffer else -overlong / buffer


SELF_TEST = tuple(
    Case(completion="." * num_tokens, options={"max_tokens": 20, "buffer": buffer}, expected=expected)
    for buffer, num_tokens, expected in (
        (4, 15, 0),
        (4, 16, 0),
        (4, 17, -0.25),
        (4, 18, -0.5),
        (4, 19, -0.75),
        (4, 20, -1),
        (4, 21, -1),
        (0, 20, 0),
        (0, 21, -1),
    )
)
