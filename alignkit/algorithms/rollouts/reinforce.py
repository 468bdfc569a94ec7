"""REINFORCE (Williams 1992): every token is pulled by what was paid from it on, less a baseline. No critic, no group.

    r_t = [score where it is paid] - kl_weight (l_old_t - l_ref_t),   G_t = r_t + discount G_t+1,   A_t = G_t - b
    L = aggregate_t( -A_t l_t ),  or PPO's clipped ratio instead of l_t

REINFORCE++ (2501.03262) is settings: baseline none, whiten, surrogate clip, aggregate token_mean, a kl_weight; its
variant with a baseline: baseline group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

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
    baseline: Literal["none", "batch", "group"] = "batch"
    """What is taken from every return: the mean reward of the batch, of the prompt's group, or nothing."""
    whiten: bool = False
    """Mean 0 and variance 1 of the advantages over all action tokens of the batch."""
    discount: Fraction = 1.0
    """Of what is paid one action token later."""
    surrogate: Literal["reinforce", "clip"] = "reinforce"
    """Log-probs, or the clipped ratio of tokens; they differ from the second update of a batch on."""
    clip: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Ratios further than this from 1 give no further incentive (surrogate clip)."""
    aggregate: Literal["sequence_mean_token_sum", "sequence_mean_token_mean", "token_mean"] = "sequence_mean_token_sum"
    """How token losses become one number; the sum over a completion is the policy gradient."""
    kl_weight: NonNegativeFloat = 0.0
    """Of the KL to the reference, paid per token in the reward; 0: no reference model."""
    entropy_weight: NonNegativeFloat = 0.0
    """Of a bonus for the entropy of each token's distribution."""
    correction_cap: PositiveFloat = 2.0
    """Largest importance weight for the gap between sampler and trainer."""


def estimate(config: Config, batch: Batch) -> Batch:
    mask = batch.action_mask
    segment = batch.segment[mask]
    rewards = ops.advantages.paid(batch, kl_weight=config.kl_weight)
    end = rewards.new_zeros(batch.num_sequences)
    # without values, GAE at trace 1 is the return from each token on
    advantages = ops.advantages.gae(rewards, 0 * rewards, end, segment, discount=config.discount, trace=1.0)
    if config.baseline != "none":
        rollouts = ops.groups.rollouts(batch)
        over = rollouts.group if config.baseline == "group" else rollouts.group * 0  # the whole batch as one group
        total = rollouts.sums(end.index_add(0, segment, rewards)) / rollouts.sums(end + 1)  # of its sequences the mean
        advantages = advantages - ops.groups.mean(total, over)[rollouts.of][segment]
    if config.whiten:
        advantages = ops.advantages.whiten(advantages, mask[mask])
    return batch.replace(advantages=batch.scatter(advantages))


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    terms, low, high = ops.policy_terms.policy_terms(outputs, batch), 1 - config.clip, 1 + config.clip
    ratio, loss = terms.ratio, -terms.advantages * terms.logprobs
    if config.surrogate == "clip":
        loss = ops.policy.clipped(ratio, terms.advantages, low=low, high=high)
    loss = terms.weighed(loss, cap=config.correction_cap, entropy_weight=config.entropy_weight)
    total, count = ops.aggregate.aggregate(loss, batch, config.aggregate)
    metrics = terms.metrics | ops.policy_terms.clipping(ratio, low=low, high=high)
    metrics |= {"loss/policy": Mean(float(total.detach()), count)}
    return Loss(total=total, count=count, metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "a group of one has no baseline but its own reward: set rollouts.group to at least 2, or baseline batch"
    return [alone] * (config.baseline == "group" and stage.rollouts.group < 2)


def explain(config: Config) -> str:
    baseline = "" if config.baseline == "none" else f" less the mean reward of the {config.baseline}"
    white = ", whitened over the batch" if config.whiten else ""
    how = "log-probs" if config.surrogate == "reinforce" else f"ratios held within {config.clip:g} of 1"
    kl = f"KL to the reference paid per token, weight {config.kl_weight:g}" if config.kl_weight else "no KL"
    returns = f"return from each token on, discount {config.discount:g}{baseline}{white}"
    value = f"E[A] + {config.entropy_weight:g} x entropy" if config.entropy_weight else "E[A]"
    return f"maximise {value}, A = {returns}; {how}, {config.aggregate}; {kl}"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: (
        Needs(columns=("sampler_logprobs", "rewards")) | (REFERENCE_KL if config.kl_weight else Needs())
    ),
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
)
