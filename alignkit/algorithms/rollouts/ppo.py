"""PPO with a token critic (arXiv 1707.06347, for language 1909.08593): clipped ratio on tokens, GAE advantages.

r_t = -kl_weight (l_old_t - l_ref_t) + [score where it is paid],   A = GAE(r, V),   R = A + V
L = token mean of -min(rho_t A_t, clip(rho_t) A_t),   L_V = value_weight max((V - R)^2, (V_clip - R)^2) / 2
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE_KL, Needs

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    renamed = {"trace": "gae_lambda"}
    clip_low: Fraction = 0.2
    """Ratios below 1 - clip_low give no further incentive."""
    clip_high: PositiveFloat = 0.2
    """Ratios above 1 + clip_high likewise."""
    clip_dual: Annotated[float, Field(gt=1)] | None = None
    """For negative advantages the loss is at most this many times -A."""
    clip_value: PositiveFloat | None = 0.2
    """Values further than this from the old ones give no further incentive; null: no value clipping."""
    value_weight: PositiveFloat = 0.1
    """Coefficient of the critic's loss; it matters where critic and policy share layers."""
    discount: Fraction = 1.0
    """Of the next action token's value."""
    gae_lambda: Fraction = 0.95
    """1 is the whole return minus the value, 0 one step of it."""
    whiten_advantages: bool = True
    """Mean 0 and variance 1 over all action tokens of the batch."""
    whiten_rewards: bool = False
    """Variance 1 of the rewards per token, their mean kept."""
    entropy_weight: NonNegativeFloat = 0.0
    """Of a bonus for the entropy of each token's distribution."""
    correction_cap: PositiveFloat = 2.0
    """Largest importance weight for the gap between sampler and trainer."""
    kl_weight: NonNegativeFloat = 0.0
    """Of the KL to the reference, paid per token in the reward; 0: no reference model."""
    kl_target: PositiveFloat | None = None
    """Adapt kl_weight so that the KL of a sequence stays near this (within about 10,000 sequences); null: fixed."""
    missing_eos_penalty: NonNegativeFloat = 0.0
    """Taken from the reward of completions that were cut before their stop token."""
    bootstrap_truncated: bool = False
    """Go on with the critic's value where a completion was cut, as if it continued; otherwise it ends there with 0."""


def estimate(config: Config, batch: Batch) -> Batch:
    mask, everything = batch.action_mask, batch.action_mask[batch.action_mask]
    rewards = ops.advantages.paid(batch, kl_weight=config.kl_weight, missing_eos_penalty=config.missing_eos_penalty)
    rewards = ops.advantages.whiten(rewards, everything, keep_mean=True) if config.whiten_rewards else rewards
    values = batch.require("values")[:, 0]
    before, final = values[batch.parent[mask]], values[batch.last_token()] * batch.truncated
    how = {"segment": batch.segment[mask], "discount": config.discount, "trace": config.gae_lambda}
    advantages = ops.advantages.gae(rewards, before, final * config.bootstrap_truncated, **how)
    returns = advantages + before
    advantages = ops.advantages.whiten(advantages, everything) if config.whiten_advantages else advantages
    return batch.replace(advantages=batch.scatter(advantages), returns=batch.scatter(returns))


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    terms, low, high = ops.policy_terms.policy_terms(outputs, batch), 1 - config.clip_low, 1 + config.clip_high
    ratio = terms.ratio
    loss = ops.policy.clipped(ratio, terms.advantages, low=low, high=high, dual=config.clip_dual)
    loss = terms.weighed(loss, cap=config.correction_cap, entropy_weight=config.entropy_weight)
    metrics = terms.metrics | ops.policy_terms.clipping(ratio, low=low, high=high) | {"loss/policy": Mean.of(loss)}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def critic_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    before, returns = batch.parent[batch.action_mask], batch.require("returns")[batch.action_mask]
    values, old = outputs.values[before, 0], batch.require("values")[before, 0]
    loss = config.value_weight * ops.policy.clipped_value(values, old, returns, clip=config.clip_value)
    means = {"value": values, "return": returns, "error": (values - returns) ** 2}
    metrics = {f"critic/{name}": Mean.of(each) for name, each in means.items()} | {"loss/critic": Mean.of(loss)}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def explain(config: Config) -> str:
    steered = f" at first, steered to {config.kl_target:g} per sequence" if config.kl_target else ""
    kl = f"KL to the reference paid per token, weight {config.kl_weight:g}{steered}" if config.kl_weight else "no KL"
    gae = f"GAE of a token critic, discount {config.discount:g}, lambda {config.gae_lambda:g}"
    return f"maximise E[A] by ratios held in {1 - config.clip_low:g} to {1 + config.clip_high:g}; {gae}; {kl}"


def requires(config: Config, stage: Stage) -> list[str]:
    unset = ["kl_target adapts kl_weight, which is 0: give it a first value, e.g. 0.05"]
    both = ["a cut completion is penalised or continued: set missing_eos_penalty or bootstrap_truncated, not both"]
    both *= bool(config.missing_eos_penalty and config.bootstrap_truncated)
    return unset * bool(config.kl_target and not config.kl_weight) + both


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: (
        Needs(columns=("sampler_logprobs", "rewards", "values")) | (REFERENCE_KL if config.kl_weight else Needs())
    ),
    estimate=estimate,
    losses={"policy": policy_loss, "critic": critic_loss},
    requires=requires,
    explain=explain,
    heads=lambda config: ("value",),
    controls=lambda config: {"kl_weight": config.kl_weight} if config.kl_target else {},
    adapt=lambda config, batch: ops.kl.adapted_weight(batch, target=config.kl_target),
)
