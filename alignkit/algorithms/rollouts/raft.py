"""RAFT (arXiv 2304.06767), rejection-sampling fine-tuning, best-of-n: imitate the best completions of each prompt.

    per prompt: the `keep` completions of the largest reward, of at least min_reward;   L = aggregate_t( -l_t )

The worst reward of a group is never imitated: where all are equal none is better, and training on samples of one's own
without a choice teaches nothing on average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveInt

from alignkit import ops
from alignkit.algorithms import sft
from alignkit.algorithms.base import Algorithm

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(sft.Config):
    keep: PositiveInt = 1
    """Completions of each prompt that are imitated, at most; ties for the last place go to the one sampled first."""
    min_reward: float | None = None
    """Only completions with at least this reward; null: the best of a hopeless group too."""


def estimate(config: Config, batch: Batch) -> Batch:
    rollouts = ops.groups.rollouts(batch)
    kept = ops.choices.best(batch.reward[rollouts.first], rollouts.group, config.keep)[rollouts.of]
    if config.min_reward is not None:
        kept &= batch.reward >= config.min_reward
    return batch.select(kept.nonzero().flatten().tolist())


def requires(config: Config, stage: Stage) -> list[str]:
    group = stage.rollouts.group
    return [f"{config.type} keeps {config.keep} of a prompt's {group} completions: set rollouts.group above keep"] * (
        group <= config.keep
    )


def explain(config: Config) -> str:
    least = "" if config.min_reward is None else f" with a reward of at least {config.min_reward:g}"
    which = f"the {config.keep} best of a prompt's completions{least}, never its worst"
    return f"minimise the {config.aggregate.replace('_', ' ')} of -log p(completion token) of {which}"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    estimate=estimate,
    losses=sft.ALGORITHM.losses,
    requires=requires,
    explain=explain,
)
