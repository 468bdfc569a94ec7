"""Rewards of steps from a language model that was trained on none: how much likelier each makes the reference answer.

A step earns the increase of the mean log-prob of the reference's tokens, given the prompt, the solution up to the
step's end and `cue`; the value, the last mean minus the first, is the sum over the steps. Options: `path` (any causal
language model), `split` (blank_line, newline, sentence), `cue`, `dtype`, `device` (default: the accelerator where there
is one).
"""

from collections.abc import Sequence

from alignkit.types.rollout import Rollout
from alignkit.types.score import Score
from alignkit.types.task import Task

SECRETS = ("HF_TOKEN",)
ONE_PROCESS = True


class teacher_forced:
    name = "teacher_forced"
    per_rollout = True

    def __init__(
        self,
        path: str,
        split: str = "blank_line",
        cue: str = "\nThe answer is ",
        dtype: str = "float32",
        device: str | None = None,
    ):
        from typing import get_args

        from alignkit.errors import ContentError
        from alignkit.rewards.learned.teacher_forced import TeacherForced
        from alignkit.rewards.steps import Rule

        for option, given, known in (("split", split, get_args(Rule)), ("dtype", dtype, ("float32", "bfloat16"))):
            if given not in known:
                raise ContentError(f"reward 'teacher_forced': {option} is {given!r}; wanted {', '.join(known)}")
        self._model = TeacherForced.load(path, split=split, cue=cue, dtype=dtype, device=device)  # ty: ignore[invalid-argument-type]  checked above

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        return self._model.score(rollouts, name=self.name)

    def score_groups(self, groups: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Score]]:
        """One Score per rollout, in order."""
        scores = iter(self._model.score([one for _, rollouts in groups for one in rollouts], name=self.name))
        return [[next(scores) for _ in rollouts] for _, rollouts in groups]
