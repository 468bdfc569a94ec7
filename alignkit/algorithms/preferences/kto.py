"""KTO (arXiv 2402.01306): unpaired feedback, answers called desirable or not, valued as people value gains and losses.

    desirable_weight (1 - sigmoid(beta (D - z))),   undesirable_weight (1 - sigmoid(beta (z - D)))

D is sum_t (l_t - l_ref_t). z, the reference point of gains and losses, is max(0, mean D) over answers to other prompts:
an estimate of KL(policy || reference). It is a constant of the whole global batch, whatever the micro-batches. With
reference_point zero it is APO-zero on single answers (2408.06266).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE, REFERENCE_KL

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    renamed = {
        "good_weight": "desirable_weight",
        "bad_weight": "undesirable_weight",
        "point": "reference_point",
    }

    beta: PositiveFloat = 0.1
    """Strength of the tie to the reference."""
    desirable_weight: PositiveFloat = 1.0
    """Weight of good answers; times their number, it should be 1 to 4/3 times the same of bad ones."""
    undesirable_weight: PositiveFloat = 1.0
    """Weight of bad answers."""
    reference_point: Literal["mismatched", "zero"] = "mismatched"
    """Where gains begin: at the estimated KL, or at 0."""


def estimate(config: Config, batch: Batch) -> Batch:
    """Writes z as the only target and drops the mismatched answers, which are not trained on."""
    mismatched = batch.side == 0
    kept = batch.select((~mismatched).nonzero().squeeze(-1).tolist())
    point = batch.reward.new_zeros(())
    if config.reference_point == "mismatched" and bool(mismatched.any()):
        gap = batch.sum_per_sequence(batch.require("old_logprobs") - batch.require("ref_logprobs"))
        point = gap[mismatched].mean().clamp(min=0)
    return kept.replace(targets=point.expand(kept.num_sequences, 1).clone())


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    ratio = ops.preference.pool(outputs.logprobs - batch.require("ref_logprobs"), batch, "sum")
    gain = config.beta * (ratio - batch.require("targets")[:, 0]) * batch.side
    weight = (batch.side == 1) * config.desirable_weight + (batch.side == -1) * config.undesirable_weight
    loss = weight * (1 - gain.sigmoid())
    metrics = ops.preference.describe_sides(batch, logprobs=outputs.logprobs, rewards=config.beta * ratio)
    metrics |= {"loss/policy": Mean.of(loss), "pairs/zero_point": Mean.of(config.beta * batch.require("targets"))}
    metrics |= {"policy/entropy": Mean.of(outputs.entropy[batch.action_mask])}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    if config.reference_point == "mismatched" and (stage.train.batch or 1) < 2:
        return ["a single answer says too little of where gains begin: set train.batch to at least 2"]
    return []


def explain(config: Config) -> str:
    point = "max(0, mean D of answers to other prompts)" if config.reference_point == "mismatched" else "0"
    weights = f"good x {config.desirable_weight}, bad x {config.undesirable_weight}"
    return f"minimise 1 - sigmoid(+-{config.beta} x (D - z)), + for good and - for bad answers ({weights}), z = {point}"


ALGORITHM = Algorithm(
    config=Config,
    source="unpaired_feedback",
    needs=lambda config: REFERENCE_KL if config.reference_point == "mismatched" else REFERENCE,
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
)
