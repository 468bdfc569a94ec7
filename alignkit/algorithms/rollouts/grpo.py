"""GRPO (arXiv 2402.03300): A_i = (R_i - mean R) / (std R + eps) in the prompt's group, clipped ratio on tokens.

    L = aggregate_t( w_t surrogate(rho_t, A_i) + kl_weight kl_t ),   rho_t = exp(l_t - l_old_t)

Variants are settings: Dr.GRPO (2503.20783) scale none, aggregate sequence_mean_constant; DAPO (2503.14476) clip_high
0.28, rollouts.dynamic_sampling true; GSPO (2507.18071) ratio sequence; CISPO (2506.13585) surrogate cispo; SAPO
(2511.20347) sapo. w_t is for the gap between sampler and trainer. By default token_mean, no KL, unlike the paper.
Another credit rule may have the loss: `policy_loss` reads `config.loss` and the advantages, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Section
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE_KL, Needs

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch

Aggregate = Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "sequence_mean_constant"]


class PolicyLoss(Section):
    """The loss of `grpo`, given advantages."""

    aggregate: Aggregate = "token_mean"
    """How token losses become one number."""
    aggregate_constant: PositiveFloat = 256.0
    """Divisor of `sequence_mean_constant`, in tokens; Dr.GRPO uses the longest completion allowed."""
    surrogate: Literal["clip", "cispo", "sapo"] = "clip"
    """PPO's clipped objective; CISPO, in which no token loses its gradient; SAPO's soft gate around ratio 1."""
    sapo_temperatures: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.05)
    """Sharpness of SAPO's gate for positive and for other advantages."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of each token, or GSPO's geometric mean over the sequence."""
    clip_low: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Ratios below 1 - clip_low give no further incentive (surrogate clip)."""
    clip_high: PositiveFloat = 0.2
    """Ratios above 1 + clip_high likewise; looser than clip_low keeps rare good tokens alive. CISPO's cap is 1 + it."""
    clip_dual: Annotated[float, Field(gt=1)] | None = None
    """For negative advantages the loss is at most this many times -A (surrogate clip)."""
    kl: Literal["none", "reward", "loss"] = "none"
    """KL to the reference: subtracted from the reward (exact), added to the loss (myopic), or nowhere."""
    kl_weight: NonNegativeFloat = 0.0
    """Its coefficient."""
    kl_estimator: Literal["k2", "k3"] = "k3"
    """Estimator in the loss; k2 has the gradient of KL(policy||reference), k3 of KL(reference||policy)."""
    entropy_weight: NonNegativeFloat = 0.0
    """Of a bonus for the entropy of each token's distribution."""
    correction: Literal["none", "truncate", "mask"] = "truncate"
    """Importance weight for the gap between sampler and trainer: capped, or zero outside [floor, cap]."""
    correction_cap: PositiveFloat = 2.0
    """Largest weight; `mask` drops tokens above it."""
    correction_floor: NonNegativeFloat = 0.5
    """`mask` drops tokens below it."""

    @property
    def kl_in_reward(self) -> float:
        return self.kl_weight if self.kl == "reward" else 0.0


class Config(AlgorithmConfig):
    renamed: ClassVar = {name: f"loss.{name}" for name in PolicyLoss.model_fields}

    loss: PolicyLoss = PolicyLoss()
    """How advantages become a loss."""
    scale: Literal["group", "batch", "none"] = "group"
    """Divide the centred reward by the standard deviation of its group, of the whole batch, or not at all."""


def estimate(config: Config, batch: Batch) -> Batch:
    rollouts = ops.groups.rollouts(batch)
    reward = ops.groups.rewards(batch, rollouts, kl_weight=config.loss.kl_in_reward)
    centred = ops.groups.centre(reward, rollouts.group)
    if config.scale != "none":
        over = rollouts.group if config.scale == "group" else rollouts.group * 0  # the whole batch as one group
        centred = centred / (ops.groups.std(reward, over) + ops.groups.STD_EPS)
    return batch.replace(advantages=batch.spread(centred[rollouts.of]))


def policy_loss(config: Any, outputs: Outputs, batch: Batch) -> Loss:
    how: PolicyLoss = config.loss
    terms = ops.policy_terms.policy_terms(outputs, batch)
    ratio, low, high = terms.ratio, 1 - how.clip_low, 1 + how.clip_high
    if how.ratio == "sequence":
        segment = batch.segment[batch.action_mask]
        ratio = ops.policy.sequence_ratio(terms.logprobs, terms.old, segment, batch.num_sequences)
    if how.surrogate == "cispo":
        loss = ops.policy.cispo(ratio, terms.logprobs, terms.advantages, cap=high)
    elif how.surrogate == "sapo":
        loss = ops.policy.soft_gate(ratio, terms.advantages, *how.sapo_temperatures)
    else:
        loss = ops.policy.clipped(ratio, terms.advantages, low=low, high=high, dual=how.clip_dual)
    correction = {"how": how.correction, "floor": how.correction_floor, "cap": how.correction_cap}
    loss = terms.weighed(loss, **correction, entropy_weight=how.entropy_weight)
    if how.kl == "loss" and terms.reference is not None:
        loss = loss + how.kl_weight * getattr(ops.kl, how.kl_estimator)(terms.logprobs - terms.reference)
    total, count = ops.aggregate.aggregate(loss, batch, how.aggregate, constant=how.aggregate_constant)
    metrics = terms.metrics | ops.policy_terms.clipping(ratio, low=low, high=high)
    metrics |= {"loss/policy": Mean(float(total.detach()), count)}
    return Loss(total=total, count=count, metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "grpo compares rollouts of one prompt: set rollouts.group to at least 2"
    half = "kl and kl_weight disagree: set both, or neither"
    return [alone] * (stage.rollouts.group < 2) + [half] * ((config.loss.kl == "none") != (config.loss.kl_weight == 0))


def explain(config: Config) -> str:
    loss = config.loss
    kl = "no KL" if loss.kl == "none" else f"{loss.kl_weight} x KL to the reference in the {loss.kl}"
    how = f"{loss.surrogate} of {loss.ratio} ratios, {loss.aggregate}, sampler correction {loss.correction}"
    value = f"E[A] + {loss.entropy_weight:g} x entropy" if loss.entropy_weight else "E[A]"
    return f"maximise {value}, A = reward centred in its group, scale {config.scale}; {how}; {kl}"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: Needs(columns=("sampler_logprobs",)) | (Needs() if config.loss.kl == "none" else REFERENCE_KL),
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
)
