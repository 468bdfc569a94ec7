"""RLOO (arXiv 2402.14740): a completion is one action, and the other completions of its prompt are its baseline.

    R_i = reward_i - kl_weight sum_t (l_old_t - l_ref_t),   A_i = R_i - mean of R_j over j != i
    L = mean_i -min(s_i A_i, clip(s_i) A_i),   s_i = exp(sum_t (l_t - l_old_t))

LOOP (2502.01600) is settings: min_advantage 0.01, train.epochs 2, and of the loss unit token, clip_range symmetric and
clip 0.1. With one update per batch s_i = 1, and the loss has the gradient of REINFORCE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Section
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE_KL, Needs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.ops.groups import Rollouts
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class PolicyLoss(Section):
    """The loss of `rloo` and `nash_md`, given advantages."""

    unit: Literal["sequence", "token"] = "sequence"
    """What a ratio belongs to: a whole completion (RLOO), or a token, averaged over each completion (LOOP)."""
    surrogate: Literal["clip", "reinforce"] = "clip"
    """The clipped ratio, or log-probs without any ratio; they differ from the second update of a batch on."""
    clip: PositiveFloat = 0.2
    """Ratios further than this from 1 give no further incentive."""
    clip_range: Literal["additive", "symmetric"] = "additive"
    """[1 - clip, 1 + clip], or [1 / (1 + clip), 1 + clip], which is symmetric in the log and allows clip above 1."""
    entropy_weight: NonNegativeFloat = 0.0
    """Of a bonus for the entropy of each token's distribution."""
    correction_cap: PositiveFloat = 2.0
    """Largest importance weight for the gap between sampler and trainer."""

    @property
    def clip_low(self) -> float:
        return 1 - self.clip if self.clip_range == "additive" else 1 / (1 + self.clip)


class Config(AlgorithmConfig):
    renamed: ClassVar = {name: f"loss.{name}" for name in PolicyLoss.model_fields}

    loss: PolicyLoss = PolicyLoss()
    """How advantages become a loss."""
    normalise: bool = False
    """Divide advantages by their standard deviation over the batch."""
    min_advantage: NonNegativeFloat = 0.0
    """Completions whose advantage is smaller than this in magnitude leave the batch."""
    kl_weight: NonNegativeFloat = 0.0
    """Of the KL to the reference, a sum over the completion, taken from its reward; 0: no reference model."""


def estimate(config: Config, batch: Batch) -> Batch:
    rollouts = ops.groups.rollouts(batch)
    reward = ops.groups.rewards(batch, rollouts, kl_weight=config.kl_weight)
    return place(config, batch, rollouts, ops.groups.leave_one_out(reward, rollouts.group))


def place(config: Config, batch: Batch, rollouts: Rollouts, advantages: Float[Tensor, " rollout"]) -> Batch:
    """The advantages of rollouts, scaled if asked for, on their tokens; without those that are too small."""
    if config.normalise:
        advantages = advantages / (ops.groups.std(advantages, rollouts.group * 0) + ops.groups.STD_EPS)
    advantages = advantages[rollouts.of]
    kept = (advantages.abs() >= config.min_advantage).nonzero().flatten()
    return batch.replace(advantages=batch.spread(advantages)).select(kept.tolist())


def policy_loss(config: Any, outputs: Outputs, batch: Batch) -> Loss:
    how: PolicyLoss = config.loss
    tokens = ops.policy_terms.policy_terms(outputs, batch)
    terms = tokens.per_sequence(batch) if how.unit == "sequence" else tokens
    ratio, low, high = terms.ratio, how.clip_low, 1 + how.clip
    if how.surrogate == "clip":
        loss = ops.policy.clipped(ratio, terms.advantages, low=low, high=high)
    else:
        loss = -terms.advantages * terms.logprobs
    loss = terms.weighed(loss, cap=how.correction_cap, entropy_weight=how.entropy_weight)
    if how.unit == "sequence":
        total, count = loss.sum(), float((batch.actions_per_sequence() > 0).sum())
    else:
        total, count = ops.aggregate.aggregate(loss, batch, "sequence_mean_token_mean")
    metrics = tokens.metrics | ops.policy_terms.clipping(ratio, low=low, high=high)
    metrics |= {"loss/policy": Mean(float(total.detach()), count)}
    return Loss(total=total, count=count, metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "rloo takes its baseline from the other completions of a prompt: set rollouts.group to at least 2"
    return [alone] * (stage.rollouts.group < 2)


def explain(config: Config) -> str:
    loss, kl = config.loss, "no KL"
    if config.kl_weight:
        kl = f"KL to the reference in the reward, weight {config.kl_weight:g}"
    held = f"ratios of a {loss.unit} held in {loss.clip_low:.3g} to {1 + loss.clip:.3g}"
    how = held if loss.surrogate == "clip" else f"log-probs of a {loss.unit}, no ratio"
    few = f"; only |A| >= {config.min_advantage:g}" if config.min_advantage else ""
    scaled = ", over its deviation in the batch" if config.normalise else ""
    value = f"E[A] + {loss.entropy_weight:g} x entropy" if loss.entropy_weight else "E[A]"
    return f"maximise {value}, A = reward less the mean of the group's others{scaled}; {how}; {kl}{few}"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: Needs(columns=("sampler_logprobs",)) | (REFERENCE_KL if config.kl_weight else Needs()),
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
)
