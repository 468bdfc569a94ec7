"""Online DPO (arXiv 2402.04792): DPO on pairs that the policy has just sampled, its best against its worst by reward.

    per prompt: chosen = argmax_i r_i, rejected = argmin_i r_i of the group;   L = DPO's loss of that pair (see dpo.py)

A prompt whose rewards are all equal gives no pair and leaves the batch. With several steps this is iterative DPO: the
reference stays the policy as the stage began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm
from alignkit.algorithms.preferences import dpo

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(dpo.Config):
    missing_eos_penalty: NonNegativeFloat = 0.0
    """Taken from the reward of completions that were cut before their stop token, before they are ranked."""


def estimate(config: Config, batch: Batch) -> Batch:
    return best_against_worst(batch, batch.reward - config.missing_eos_penalty * batch.truncated)


def best_against_worst(batch: Batch, reward: Float[Tensor, " sequence"]) -> Batch:
    """The best and the worst rollout of each group, as the two sides of a pair; nothing of groups without spread."""
    rollouts = ops.groups.rollouts(batch)
    of_rollout = reward[rollouts.first]
    best, worst = (ops.choices.best(each, rollouts.group, 1).long() for each in (of_rollout, -of_rollout))
    side = (best - worst)[rollouts.of]
    return batch.replace(side=side).select(side.nonzero().flatten().tolist())


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "online_dpo makes a pair of each prompt's completions: set rollouts.group to at least 2"
    return [alone] * (stage.rollouts.group < 2) + dpo.requires(config, stage)


def explain(config: Config) -> str:
    return f"{dpo.explain(config)}; chosen and rejected: best and worst reward of a prompt's completions, ties dropped"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=dpo.ALGORITHM.needs,
    estimate=estimate,
    losses=dpo.ALGORITHM.losses,
    requires=requires,
    explain=explain,
    unit="group",
)
