"""A reward model of our own training: the folder that a reward recipe wrote, read with its own tokenizer and template.

Options: `path` (the folder, `runs/NAME/final`), `device`. Its score has what the model was trained for: objectives as
parts, quantiles, members of an ensemble, values of steps.
"""

from collections.abc import Sequence

from alignkit.types.rollout import Rollout
from alignkit.types.score import Score
from alignkit.types.task import Task


class learned:
    name = "learned"
    per_rollout = True

    def __init__(self, path: str, device: str = "cpu"):
        from pathlib import Path

        from alignkit.models.reward_model import RewardModel

        self._model = RewardModel.load(Path(path).expanduser(), device=device)

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        [scores] = self.score_groups([(task, rollouts)])
        return scores

    def score_groups(self, groups: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Score]]:
        """One Score per rollout, in order."""
        return self._model.score(groups, name=self.name)
