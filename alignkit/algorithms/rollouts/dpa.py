"""DPA (arXiv 2402.18571): directional preference alignment, one policy for every trade-off between several rewards.

    per prompt, which states a direction v:  s_i = sum_k v_k r_ik,  keep the completions of the largest s
    L = aggregate_t( -l_t ) over their tokens

Tasks bring v in a column `direction`, a mapping from reward names to weights, and show it in the prompt: data.template
"<helpful: {direction[helpful]}, short: {direction[short]}> {question}". The worst s of a group is never imitated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignkit.algorithms import sft
from alignkit.algorithms.base import Algorithm
from alignkit.algorithms.rollouts import raft
from alignkit.errors import BatchError
from alignkit.types.rollout import DIRECTION

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(raft.Config):
    min_reward: float | None = None
    """Only completions whose weighted sum is at least this; null: the best of a hopeless group too."""


def estimate(config: Config, batch: Batch) -> Batch:
    return raft.estimate(config, batch.replace(reward=along_direction(batch)))


def along_direction(batch: Batch) -> Float[Tensor, " sequence"]:
    """Each sequence's rewards weighed as its prompt asks; what its direction does not name counts nothing.

    Raises BatchError for a batch without directions, for one that names no reward, and for a reward without a value.
    """
    wanted = {name.removeprefix(DIRECTION): w for name, w in batch.channels.items() if name.startswith(DIRECTION)}
    known = [name for name in batch.channels if not name.startswith(DIRECTION)]
    if not wanted:
        raise BatchError("dpa: no task has a `direction`; give the data a column that maps reward names to weights")
    score = 0 * batch.reward
    for name, weight in wanted.items():
        if name not in known:
            raise BatchError(f"dpa: a direction names '{name}'; the rewards are {', '.join(known) or 'none'}")
        asked = weight.nan_to_num(0.0)
        score = score + (asked * batch.channels[name]).where(asked != 0, 0.0)
    missing = int((~score.isfinite()).sum())
    if missing:
        raise BatchError(f"dpa: {missing} sequences lack the value of a reward that their direction names")
    return score


def requires(config: Config, stage: Stage) -> list[str]:
    few = "dpa trades several rewards off: name at least two rewards"
    return [few] * (len(stage.rewards) < 2) + raft.requires(config, stage)


def explain(config: Config) -> str:
    return f"{raft.explain(config)}, best by the direction that each prompt states"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    estimate=estimate,
    losses=sft.ALGORITHM.losses,
    requires=requires,
    explain=explain,
)
