"""RLOO (arXiv 2402.14740): a completion is one action, and the other completions of its prompt are its baseline.

    R_i = reward_i - kl_weight sum_t (l_old_t - l_ref_t),   A_i = R_i - mean of R_j over j != i
    L = mean_i -min(s_i A_i, clip(s_i) A_i),   s_i = exp(sum_t (l_t - l_old_t))

LOOP (2502.01600) is settings: unit token, clip_range symmetric, clip 0.1, min_advantage 0.01, train.epochs 2. With one
update per batch s_i = 1, and the loss has the gradient of REINFORCE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE_KL, Needs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    unit: Literal["sequence", "token"] = "sequence"
    """What a ratio belongs to: a whole completion (RLOO), or a token, averaged over each completion (LOOP)."""
    surrogate: Literal["clip", "reinforce"] = "clip"
    """The clipped ratio, or log-probs without any ratio; they differ from the second update of a batch on."""
    clip: PositiveFloat = 0.2
    """Ratios further than this from 1 give no further incentive."""
    clip_range: Literal["additive", "symmetric"] = "additive"
    """[1 - clip, 1 + clip], or [1 / (1 + clip), 1 + clip], which is symmetric in the log and allows clip above 1."""
    normalise: bool = False
    """Divide advantages by their standard deviation over the batch."""
    min_advantage: NonNegativeFloat = 0.0
    """Completions whose advantage is smaller than this in magnitude leave the batch."""
    kl_weight: NonNegativeFloat = 0.0
    """Of the KL to the reference, a sum over the completion, taken from its reward; 0: no reference model."""
    entropy_weight: NonNegativeFloat = 0.0
    """Of a bonus for the entropy of each token's distribution."""
    correction_cap: PositiveFloat = 2.0
    """Largest importance weight for the gap between sampler and trainer."""


def estimate(config: Config, batch: Batch) -> Batch:
    reward = ops.kl.penalised_reward(batch, weight=config.kl_weight)
    return place(config, batch, ops.groups.leave_one_out(reward, batch.group))


def place(config: Config, batch: Batch, advantages: Float[Tensor, " sequence"]) -> Batch:
    """The advantages of whole completions, scaled if asked for, on their tokens; without those that are too small."""
    if config.normalise:
        advantages = advantages / (ops.groups.std(advantages, batch.group * 0) + ops.groups.STD_EPS)
    kept = (advantages.abs() >= config.min_advantage).nonzero().flatten()
    return batch.replace(advantages=batch.spread(advantages)).select(kept.tolist())


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    tokens = ops.policy_terms.policy_terms(outputs, batch)
    terms = tokens.per_sequence(batch) if config.unit == "sequence" else tokens
    ratio, low, high = terms.ratio, clip_low(config), 1 + config.clip
    if config.surrogate == "clip":
        loss = ops.policy.clipped(ratio, terms.advantages, low=low, high=high)
    else:
        loss = -terms.advantages * terms.logprobs
    loss = terms.weighed(loss, cap=config.correction_cap, entropy_weight=config.entropy_weight)
    if config.unit == "sequence":
        total, count = loss.sum(), float((batch.actions_per_sequence() > 0).sum())
    else:
        total, count = ops.aggregate.aggregate(loss, batch, "sequence_mean_token_mean")
    metrics = tokens.metrics | ops.policy_terms.clipping(ratio, low=low, high=high)
    metrics |= {"loss/policy": Mean(float(total.detach()), count)}
    return Loss(total=total, count=count, metrics=metrics)


def clip_low(config: Config) -> float:
    return 1 - config.clip if config.clip_range == "additive" else 1 / (1 + config.clip)


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "rloo takes its baseline from the other completions of a prompt: set rollouts.group to at least 2"
    return [alone] * (stage.rollouts.group < 2)


def explain(config: Config) -> str:
    kl = f"KL to the reference in the reward, weight {config.kl_weight:g}" if config.kl_weight else "no KL"
    held = f"ratios of a {config.unit} held in {clip_low(config):.3g} to {1 + config.clip:.3g}"
    how = held if config.surrogate == "clip" else f"log-probs of a {config.unit}, no ratio"
    few = f"; only |A| >= {config.min_advantage:g}" if config.min_advantage else ""
    scaled = ", over its deviation in the batch" if config.normalise else ""
    value = f"E[A] + {config.entropy_weight:g} x entropy" if config.entropy_weight else "E[A]"
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
