"""A reward model that says a distribution: quantiles of each rating (QRM, 2409.10164, stage 1).

    L = mean over known ratings and levels tau_j = j / (M + 1) of rho_tau(y - q_tau),   rho_tau(u) = u (tau - 1[u < 0])

The head gives M numbers per objective at the answer's last token. With `monotone` they are a base and steps upwards, so
that quantiles cannot cross; QRM itself leaves them free. The reward is the mean; `risk` in a recipe's rewards reads the
whole distribution, level by level over the objectives (as if all rose and fell together).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveInt

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    objectives: tuple[str, ...] = ("rating",)
    """Columns of the data that hold ratings; an answer may lack some."""
    levels: PositiveInt = 19
    """Quantiles of each."""
    monotone: bool = True
    """Quantiles that cannot cross."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def quantiles(config: Config, outputs: Outputs, batch: Batch) -> Float[Tensor, "sequence objective level"]:
    raw = outputs.values[batch.last_token(), : len(config.objectives) * config.levels]
    raw = raw.unflatten(-1, (len(config.objectives), config.levels))
    return ops.quantiles.monotone(raw) if config.monotone else raw


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    said, ratings = quantiles(config, outputs, batch), ops.ratings.stack(batch, config.objectives)
    each = ops.quantiles.pinball(said, ratings, ops.quantiles.levels(config.levels).to(said))
    known = ~ratings.isnan()
    metrics = {"loss/reward": Mean.of(each[known])}
    if not config.monotone:
        metrics["quantiles/crossing_frac"] = Mean.of(ops.quantiles.crossing_rate(said))
    return Loss(total=each.sum(), count=int(known.sum()), metrics=metrics)


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    said = quantiles(config, outputs, batch)
    parts = dict(zip(config.objectives, said.mean(-1).T, strict=True))
    return Judgement(value=said.mean((-2, -1)), parts=parts, spread=said.mean(-2))


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    names, free = ", ".join(config.objectives), "" if config.monotone else ", free to cross"
    return f"minimise the pinball loss of {config.levels} quantiles of each of {names}{free}"


def heads(config: Config) -> tuple[str, ...]:
    return tuple(f"{name}@{level}" for name in config.objectives for level in range(1, config.levels + 1))


ALGORITHM = Algorithm(
    config=Config,
    source="rated",
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    heads=heads,
    columns=lambda config: config.objectives,
    judge=judge,
)
