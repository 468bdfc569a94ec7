"""Reward models of our own training: the folder that a reward recipe wrote, read with its own tokenizer and template.

Options: `path` (the folder, `runs/NAME/final`), `device` (default: the accelerator where there is one), `engine`
(transformers or vllm), `memory_fraction` (of a GPU, for vLLM). The score has what the model was trained for: objectives
as parts, quantiles, members of an ensemble, values of steps. `path` may be a list: then the
value is the mean over the folders, and what each says is a member, in their order, for the recipe's `ensemble`; one
that cannot score an answer leaves it without a score. vLLM may read what scores by a causal LM's last state in
float32; where its numbers are not those of transformers, the reward does not load.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from alignkit.types.rollout import Rollout
from alignkit.types.score import Score
from alignkit.types.task import Task

ONE_PROCESS = True

if TYPE_CHECKING:
    from pathlib import Path

    from alignkit.rewards.learned.reward_model import RewardModel


class learned:
    name = "learned"
    per_rollout = True

    def __init__(
        self,
        path: str | list[str],
        device: str | None = None,
        engine: str = "transformers",
        memory_fraction: float = 0.45,
    ):
        from pathlib import Path

        from alignkit.errors import ContentError
        from alignkit.rewards.learned.reward_model import RewardModel

        folders = [path] if isinstance(path, str) else path
        if not folders:
            raise ContentError("reward 'learned': path is an empty list; name the folder of a reward model")
        if engine not in ("transformers", "vllm"):
            raise ContentError(f"reward 'learned': engine is {engine!r}; wanted transformers or vllm")
        paths = [Path(folder).expanduser() for folder in folders]
        self._models = [RewardModel.load(folder, device=device) for folder in paths]
        if engine == "vllm":
            for folder, model in zip(paths, self._models, strict=True):
                _read_by_vllm(folder, model, memory_fraction)

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        [scores] = self.score_groups([(task, rollouts)])
        return scores

    def score_groups(self, groups: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Score]]:
        """One Score per rollout, in order."""
        said = [model.score(groups, name=self.name) for model in self._models]
        if len(said) == 1:
            return said[0]
        return [[_together(scores) for scores in zip(*group, strict=True)] for group in zip(*said, strict=True)]


def _read_by_vllm(folder: Path, model: RewardModel, memory_fraction: float) -> None:
    from alignkit.engines.vllm.states import VllmStates
    from alignkit.errors import ContentError
    from alignkit.rewards.learned.reward_model import FILES, MICRO_BATCH_TOKENS

    if not model.reads_last_only:
        kind = model.reading.algorithm["type"]
        problem = (
            f"reward 'learned': vllm reads only what a causal LM says at the last token; {folder} is another ({kind})"
        )
        raise ContentError(f"{problem}: use engine: transformers")
    if model.reading.dtype != "float32":
        problem = f"reward 'learned': in {model.reading.dtype} vllm's scores are not those of transformers"
        raise ContentError(f"{problem}; train {folder} in float32, or use engine: transformers")
    longest = min(model.context, MICRO_BATCH_TOKENS)
    states = VllmStates(folder, extra_files=FILES, max_model_len=longest, memory_fraction=memory_fraction)
    model.read_with(states, engine="vllm")


def _together(scores: Sequence[Score]) -> Score:
    """The members' scores of one rollout as one; the first of them without a value stands for all."""
    values = [score.value for score in scores if score.value is not None]
    if len(values) < len(scores):
        return next(score for score in scores if score.value is None)
    return Score(value=fmean(values), members=tuple(values))
