"""Filtered behaviour cloning: imitate the best share of everything that was sampled in a step, by return.

    kept: sequences whose return is at least that of the ceil(fraction N)-th best;   L = aggregate_t( -l_t )

Unlike raft it compares prompts with one another: right for episodes of one task, wrong for prompts of mixed difficulty.
Ties at the threshold are all kept, the lowest return of the batch never.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from alignkit import ops
from alignkit.algorithms import sft
from alignkit.algorithms.base import Algorithm

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(sft.Config):
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the batch's sequences that is imitated, ties at the threshold besides."""


def estimate(config: Config, batch: Batch) -> Batch:
    rollouts = ops.groups.rollouts(batch)
    reward = batch.reward[rollouts.first]
    threshold = reward.sort(descending=True).values[math.ceil(config.fraction * len(reward) - 1e-9) - 1]
    kept = ((reward >= threshold) & (reward > reward.amin()))[rollouts.of]
    return batch.select(kept.nonzero().flatten().tolist())


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    which = f"the sequences of the best {config.fraction:.0%} of the batch by return, never the lowest"
    return f"minimise the {config.aggregate.replace('_', ' ')} of -log p(token) of {which}"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    estimate=estimate,
    losses=sft.ALGORITHM.losses,
    requires=requires,
    explain=explain,
)
