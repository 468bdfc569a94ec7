"""REBEL (arXiv 2404.16767) offline: regress the difference of a pair's log-ratios on that of its rewards.

    L = mean over pairs ( h - eta (r_w - r_l) )^2 + nll_weight (-mean_t l_wt),   h = D_w - D_l
    D = sum_t (l_t - l_ref_t)

The anchor is the reference, the policy that is to be improved; the answers may stem from any policy. Unlike DPO it uses
by how much an answer is better, and unlike IPO the difference aimed at is each pair's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.errors import BatchError
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    eta: PositiveFloat = 1.0
    """Step size: the log-ratio that a reward of 1 is worth. Keep eta times typical differences between 0.1 and 10."""
    convention: Literal["code", "paper"] = "code"
    """(h - eta r)^2 as in the authors' code, or (h / eta - r)^2 as in their paper: eta^2 times smaller a gradient."""
    nll_weight: NonNegativeFloat = 0.0
    """Weight of the chosen answers' negative log-likelihood per token."""


def estimate(config: Config, batch: Batch) -> Batch:
    """Writes eta times the rewards as targets; raises BatchError where no pair has rewards that differ."""
    chosen, rejected = ops.preference.sides(batch)
    if bool((batch.reward[chosen] == batch.reward[rejected]).all()):
        raise BatchError("no pair of the step has rewards that differ: give the columns chosen_reward, rejected_reward")
    return batch.replace(targets=config.eta * batch.reward[:, None])


def log_ratios(outputs: Outputs, batch: Batch) -> Float[Tensor, " sequence"]:
    return ops.preference.pool(outputs.logprobs - batch.require("ref_logprobs"), batch, "sum")


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    ratio = log_ratios(outputs, batch)
    gap = ratio - batch.require("targets")[:, 0]
    loss = (gap[chosen] - gap[rejected]) ** 2 / (1.0 if config.convention == "code" else config.eta**2)
    nll = -ops.preference.pool(outputs.logprobs, batch, "mean")[chosen]
    loss = loss + config.nll_weight * nll
    metrics = ops.preference.describe(batch, logprobs=outputs.logprobs, rewards=ratio / config.eta)
    metrics |= {
        "loss/nll": Mean.of(nll),
        "loss/policy": Mean.of(loss),
        "policy/entropy": Mean.of(outputs.entropy[batch.action_mask]),
    }
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    gap = f"h - {config.eta:g} x (r_w - r_l)" if config.convention == "code" else f"h / {config.eta:g} - (r_w - r_l)"
    return (
        f"minimise the mean of ({gap})^2 over pairs, h = difference of log-ratios to the reference, r = given rewards"
    )


ALGORITHM = Algorithm(
    config=Config,
    source="paired_preference",
    needs=lambda config: REFERENCE,
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="group",
    judge=lambda config, outputs, batch: Judgement(value=log_ratios(outputs, batch) / config.eta),
)
