"""CPL (arXiv 2310.13639): log-probs are advantages up to a scale, and people prefer answers by their advantages.

    L = mean over pairs -log( e^{scale S_w} / (e^{scale S_w} + e^{bias scale S_l}) ),   S = sum_t l_t

bias < 1 counts the rejected answer less, so that among equally preferred policies the one that keeps to the data wins.
With anchor reference S is the log-ratio to the reference; with bias 1 too it is DPO. The paper discounts by time, which
is 1 here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE, Needs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    scale: PositiveFloat = 0.1
    """Scale of the advantages, the temperature of the maximum-entropy policy (alpha in the paper)."""
    bias: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Weight of the rejected side; below 1 it is conservative (lambda in the paper)."""
    anchor: Literal["none", "reference"] = "none"
    """Take the log-probs as they are, or their difference from the reference's."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def advantages(config: Config, outputs: Outputs, batch: Batch) -> Float[Tensor, " sequence"]:
    said = outputs.logprobs
    if config.anchor == "reference":
        said = said - batch.require("ref_logprobs")
    return config.scale * ops.preference.pool(said, batch, "sum")


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    advantage = advantages(config, outputs, batch)
    loss = ops.preference.logistic(advantage[chosen] - config.bias * advantage[rejected])
    metrics = ops.preference.describe(batch, logprobs=outputs.logprobs, rewards=advantage)
    metrics |= {"loss/policy": Mean.of(loss), "policy/entropy": Mean.of(outputs.entropy[batch.action_mask])}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    score = "sum of log p" if config.anchor == "none" else "sum of log-ratios to the reference"
    return f"minimise -log sigmoid({config.scale} x (S(chosen) - {config.bias} x S(rejected))), S = {score} per answer"


ALGORITHM = Algorithm(
    config=Config,
    source="paired_preference",
    needs=lambda config: REFERENCE if config.anchor == "reference" else Needs(),
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="group",
    judge=lambda config, outputs, batch: Judgement(value=advantages(config, outputs, batch)),
)
