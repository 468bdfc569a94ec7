"""DPO (arXiv 2305.18290): the policy's own log-ratio to the reference is the reward of a Bradley-Terry model.

    L = mean over pairs link(beta (D_w - D_l)) + nll_weight * -mean_t l_wt,   D = sum_t (l_t - l_ref_t)

Variants are settings: cDPO label_smoothing > 0; loss_type robust, smoothed too, rDPO (2403.00409), ipo (2310.12036),
SLiC's hinge (2305.10425), EXO, NCA, APO; f-DPO (2309.16240) divergence. With nll_weight as in RPO (2404.19733), which
keeps the chosen answers likely: DPO alone lowers both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    renamed = {"link": "loss_type", "smoothing": "label_smoothing"}

    loss_type: Literal["sigmoid", "robust", "hinge", "ipo", "exo", "nca", "apo_zero", "apo_down"] = "sigmoid"
    """From the difference of the two sides to a loss."""
    beta: PositiveFloat = 0.1
    """Strength of the tie to the reference; in IPO 1 / (2 beta) is the log-ratio aimed at."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of labels taken to be flipped (loss types sigmoid, robust, exo)."""
    pool: Literal["sum", "mean"] = "sum"
    """Log-ratio of an answer: of its tokens the sum, or the mean (as TRL does for IPO), which takes out its length."""
    divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"] = "reverse_kl"
    """Divergence from the reference that the implied reward belongs to (f-DPO)."""
    alpha: PositiveFloat = 0.5
    """Of the alpha divergence: 0 is forward, 1 reverse KL."""
    nll_weight: NonNegativeFloat = 0.0
    """Weight of the chosen answers' negative log-likelihood per token."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def score(config: Config, outputs: Outputs, batch: Batch) -> Float[Tensor, " sequence"]:
    """The implied reward of each answer, before its scale beta."""
    log_ratio = ops.preference.pool(outputs.logprobs - batch.require("ref_logprobs"), batch, config.pool)
    return ops.preference.divergence_score(log_ratio, config.divergence, alpha=config.alpha)


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    scores = score(config, outputs, batch)
    options = {"beta": config.beta, "smoothing": config.label_smoothing}
    loss = ops.preference.pair_loss(config.loss_type, scores[chosen], scores[rejected], **options)
    metrics = ops.preference.describe(batch, logprobs=outputs.logprobs, rewards=config.beta * scores)
    metrics |= {"policy/entropy": Mean.of(outputs.entropy[batch.action_mask])}
    if config.nll_weight:
        nll = -ops.preference.pool(outputs.logprobs, batch, "mean")[chosen]
        loss = loss + config.nll_weight * nll
        metrics["loss/nll"] = Mean.of(nll)
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics | {"loss/policy": Mean.of(loss)})


def requires(config: Config, stage: Stage) -> list[str]:
    kind, smoothed = config.loss_type, config.label_smoothing > 0
    noisy = kind in ("robust", "exo")
    rules = {
        f"loss_type {kind} without flipped labels is not defined: set label_smoothing above 0": smoothed or not noisy,
        f"loss_type {kind} has no label_smoothing: set it to 0": not smoothed or noisy or kind == "sigmoid",
        "f-divergences are of whole answers: set pool sum": config.pool == "sum" or config.divergence == "reverse_kl",
    }
    return [sentence for sentence, holds in rules.items() if not holds]


def explain(config: Config) -> str:
    score = f"{config.pool} of log-ratios to the reference"
    score += "" if config.divergence == "reverse_kl" else f" under {config.divergence}"
    smoothing = f", labels smoothed by {config.label_smoothing}" if config.label_smoothing else ""
    nll = f" + {config.nll_weight} x -log p(chosen) per token" if config.nll_weight else ""
    return f"minimise the {config.loss_type} loss of {config.beta} x (chosen - rejected {score}){smoothing}{nll}"


ALGORITHM = Algorithm(
    config=Config,
    source="paired_preference",
    needs=lambda config: REFERENCE,
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="group",
    judge=lambda config, outputs, batch: Judgement(value=config.beta * score(config, outputs, batch)),
)
