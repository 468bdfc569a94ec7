"""SimPO (arXiv 2405.14734): Bradley-Terry on the mean log-prob of an answer, with a margin and without a reference.

    L = mean over pairs -log sigmoid(beta (mean_t l_wt - mean_t l_lt) - gamma),   gamma = margin beta

The mean over tokens takes out the length; nothing ties the policy to where it began but a small learning rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    renamed = {"smoothing": "label_smoothing"}

    beta: PositiveFloat = 2.0
    """Scale of the mean log-prob; the paper uses 2 to 10."""
    margin: NonNegativeFloat = 0.5
    """How much more likely the chosen answer should be, in nats per token; the paper's gamma is beta times this."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of labels taken to be flipped."""
    nll_weight: NonNegativeFloat = 0.0
    """Weight of the chosen answers' negative log-likelihood per token."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    mean = ops.preference.pool(outputs.logprobs, batch, "mean")
    logits = config.beta * (mean[chosen] - mean[rejected] - config.margin)
    loss = ops.preference.logistic(logits, config.label_smoothing) - config.nll_weight * mean[chosen]
    metrics = ops.preference.describe(batch, logprobs=outputs.logprobs, rewards=config.beta * mean)
    metrics |= {"loss/policy": Mean.of(loss), "loss/nll": Mean.of(-mean[chosen])}
    metrics |= {"policy/entropy": Mean.of(outputs.entropy[batch.action_mask])}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    nll = f" + {config.nll_weight} x -log p(chosen) per token" if config.nll_weight else ""
    logits = f"{config.beta} x (mean log p(chosen) - mean log p(rejected) - {config.margin})"
    return f"minimise -log sigmoid({logits}), labels smoothed by {config.label_smoothing}{nll}; no reference"


ALGORITHM = Algorithm(
    config=Config,
    source="paired_preference",
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="group",
    judge=lambda config, outputs, batch: Judgement(
        value=config.beta * ops.preference.pool(outputs.logprobs, batch, "mean")
    ),
)
