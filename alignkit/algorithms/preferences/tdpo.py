"""TDPO (arXiv 2404.11999): DPO that also watches, token by token, how far each side drifts from the reference.

    L = mean over pairs -log sigmoid(beta (D_w - D_l - kl_weight (K_l - sg[K_w]))) + nll_weight * -mean_t l_wt
    D = sum_t (l_t - l_ref_t),   K = sum_t KL(reference || policy) of each token's distribution, all of the vocabulary

That is TDPO2. TDPO1 is kl_weight 1 with chosen_gradient. The KL is exact, from both models' logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat

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
    beta: PositiveFloat = 0.1
    """Strength of the tie to the reference."""
    kl_weight: NonNegativeFloat = 0.5
    """Of the difference of the two sides' KL (the paper's alpha); 0 is DPO."""
    chosen_gradient: bool = False
    """Whether the chosen side's KL has a gradient, which pushes it up: that side then drifts more freely (TDPO1)."""
    nll_weight: NonNegativeFloat = 0.0
    """Weight of the chosen answers' negative log-likelihood per token."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def log_ratios(outputs: Outputs, batch: Batch) -> Float[Tensor, " sequence"]:
    return ops.preference.pool(outputs.logprobs - batch.require("ref_logprobs"), batch, "sum")


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    log_ratio = log_ratios(outputs, batch)
    drift = ops.preference.pool(outputs.ref_kl, batch, "sum")
    kept = drift if config.chosen_gradient else drift.detach()
    good = log_ratio[chosen] + config.kl_weight * kept[chosen]
    bad = log_ratio[rejected] + config.kl_weight * drift[rejected]
    nll = -ops.preference.pool(outputs.logprobs, batch, "mean")[chosen]
    loss = ops.preference.pair_loss("sigmoid", good, bad, beta=config.beta) + config.nll_weight * nll
    metrics = ops.preference.describe(batch, logprobs=outputs.logprobs, rewards=config.beta * log_ratio)
    means = {"loss/policy": loss, "loss/nll": nll, "policy/entropy": outputs.entropy[batch.action_mask]}
    means |= {"pairs/kl_chosen": drift[chosen], "pairs/kl_rejected": drift[rejected]}
    metrics |= {name: Mean.of(each) for name, each in means.items()}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    held = "" if config.chosen_gradient else ", the chosen side's held constant"
    nll = f" + {config.nll_weight:g} x -log p(chosen) per token" if config.nll_weight else ""
    gap = f"chosen - rejected sum of log-ratios to the reference - {config.kl_weight:g} x (rejected - chosen KL)"
    return f"minimise -log sigmoid({config.beta:g} x ({gap})), KL(reference || policy) per token and exact{held}{nll}"


ALGORITHM = Algorithm(
    config=Config,
    source="paired_preference",
    needs=lambda config: REFERENCE | Needs(outputs=("ref_kl",)),
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="group",
    judge=lambda config, outputs, batch: Judgement(value=config.beta * log_ratios(outputs, batch)),
)
