"""DQO (arXiv 2410.09302): the policy is a soft Q-function, Q(s, a) = beta log(pi / ref) + V(s), made to obey Bellman.

    L = token mean of w_t (beta (l_t - l_ref_t) + V_t - Q_t)^2,   Q_t = r_t + V_{t+1}, after the end r_t alone
    L_V = value_weight (V_t - G_t)^2 / 2,   G = lambda-return of the soft rewards r_t - beta (l_old_t - l_ref_t)

Where every residual is 0, pi is the best policy at beta times the KL to the reference and V its value. In the policy's
loss V is a constant; w corrects the gap between sampler and trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE_KL, Needs

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    renamed = {"trace": "value_lambda", "policy_trace": "policy_lambda"}

    beta: PositiveFloat = 0.03
    """Of the KL to the reference: a reward of beta is worth one nat of log-ratio."""
    value_lambda: Fraction = 1.0
    """Lambda of the critic's targets: 1 is the soft return as it came, 0 one step of it and the next value."""
    policy_lambda: Fraction = 0.0
    """The same of the Q-values that the policy aims at; above 0 it trusts less in a critic that has yet to learn."""
    value_weight: PositiveFloat = 1.0
    """Coefficient of the critic's loss; it matters where critic and policy share layers."""
    correction_cap: PositiveFloat = 2.0
    """Largest importance weight for the gap between sampler and trainer."""
    missing_eos_penalty: NonNegativeFloat = 0.0
    """Taken from the reward of completions that were cut before their stop token."""


def estimate(config: Config, batch: Batch) -> Batch:
    """Writes the Q-values aimed at, less those of the states (`advantages`), and the critic's targets (`returns`)."""
    mask, values = batch.action_mask, batch.require("values")[:, 0]
    before, final = values[batch.parent[mask]], values.new_zeros(batch.num_sequences)
    soft = ops.advantages.paid(batch, kl_weight=config.beta, missing_eos_penalty=config.missing_eos_penalty)
    how = {"segment": batch.segment[mask], "discount": 1.0}
    kl = config.beta * (batch.require("old_logprobs") - batch.require("ref_logprobs"))[mask]
    aims = kl + ops.advantages.gae(soft, before, final, trace=config.policy_lambda, **how)
    returns = before + ops.advantages.gae(soft, before, final, trace=config.value_lambda, **how)
    return batch.replace(advantages=batch.scatter(aims), returns=batch.scatter(returns))


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    terms = ops.policy_terms.policy_terms(outputs, batch)
    log_ratio = terms.logprobs - batch.require("ref_logprobs")[batch.action_mask]
    loss = terms.weighed((config.beta * log_ratio - terms.advantages) ** 2, cap=config.correction_cap)
    return Loss(total=loss.sum(), count=len(loss), metrics=terms.metrics | {"loss/policy": Mean.of(loss)})


def critic_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    mask = batch.action_mask
    values, returns = outputs.values[batch.parent[mask], 0], batch.require("returns")[mask]
    loss = config.value_weight * ops.policy.clipped_value(values, values.detach(), returns, clip=None)
    means = {"value": values, "return": returns, "error": (values - returns) ** 2}
    metrics = {f"critic/{name}": Mean.of(each) for name, each in means.items()} | {"loss/critic": Mean.of(loss)}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    return (
        f"minimise (Q - r - V(next))^2 per token, Q = {config.beta:g} x log-ratio to the reference + V, "
        f"V(next) of lambda {config.policy_lambda:g}; V fitted to the soft return, lambda {config.value_lambda:g}"
    )


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: REFERENCE_KL | Needs(columns=("sampler_logprobs", "rewards", "values")),
    estimate=estimate,
    losses={"policy": policy_loss, "critic": critic_loss},
    requires=requires,
    explain=explain,
    heads=lambda config: ("value",),
)
