"""Reward models of our own training: the folder that a reward recipe wrote, read with its own tokenizer and template.

Options: `path` (the folder, `runs/NAME/final`), `device`. The score has what the model was trained for: objectives as
parts, quantiles, members of an ensemble, values of steps. `path` may be a list: then the value is the mean over the
folders, and what each says is a member, in their order, for the recipe's `ensemble`; one that cannot score an answer
leaves it without a score.
"""

from collections.abc import Sequence
from statistics import fmean

from alignkit.types.rollout import Rollout
from alignkit.types.score import Score
from alignkit.types.task import Task


class learned:
    name = "learned"
    per_rollout = True

    def __init__(self, path: str | list[str], device: str = "cpu"):
        from pathlib import Path

        from alignkit.errors import ContentError
        from alignkit.models.reward_model import RewardModel

        folders = [path] if isinstance(path, str) else path
        if not folders:
            raise ContentError("reward 'learned': path is an empty list; name the folder of a reward model")
        self._models = [RewardModel.load(Path(folder).expanduser(), device=device) for folder in folders]

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        [scores] = self.score_groups([(task, rollouts)])
        return scores

    def score_groups(self, groups: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Score]]:
        """One Score per rollout, in order."""
        said = [model.score(groups, name=self.name) for model in self._models]
        if len(said) == 1:
            return said[0]
        return [[_together(scores) for scores in zip(*group, strict=True)] for group in zip(*said, strict=True)]


def _together(scores: Sequence[Score]) -> Score:
    """The members' scores of one rollout as one; the first of them without a value stands for all."""
    values = [score.value for score in scores if score.value is not None]
    if len(values) < len(scores):
        return next(score for score in scores if score.value is None)
    return Score(value=fmean(values), members=tuple(values))
