"""ORPO (arXiv 2403.07691): supervised learning of the chosen answer and a preference in odds, in one stage.

    L = mean over pairs ( -m_w - weight log sigmoid(odds_w - odds_l) ),   m = mean_t l_t,   odds = m - log(1 - exp m)

No reference. The likelihood is averaged per answer; the reference code averages over all tokens of a micro-batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    weight: PositiveFloat = 0.1
    """Weight of the preference beside the likelihood (lambda in the paper, beta in TRL)."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def log_odds(outputs: Outputs, batch: Batch) -> Float[Tensor, " sequence"]:
    return ops.preference.log_odds(ops.preference.pool(outputs.logprobs, batch, "mean"))


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    mean = ops.preference.pool(outputs.logprobs, batch, "mean")
    odds = log_odds(outputs, batch)
    loss = config.weight * ops.preference.logistic(odds[chosen] - odds[rejected]) - mean[chosen]
    metrics = ops.preference.describe(batch, logprobs=outputs.logprobs, rewards=odds)
    metrics |= {"loss/policy": Mean.of(loss), "loss/nll": Mean.of(-mean[chosen])}
    metrics |= {"policy/entropy": Mean.of(outputs.entropy[batch.action_mask])}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    odds = "log odds(chosen) - log odds(rejected)"
    return f"minimise -log p(chosen) per token + {config.weight} x -log sigmoid({odds}); no reference"


ALGORITHM = Algorithm(
    config=Config,
    source="paired_preference",
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="group",
    judge=lambda config, outputs, batch: Judgement(value=log_odds(outputs, batch)),
)
