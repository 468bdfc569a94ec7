"""RLMEC (arXiv 2401.06081): token rewards from a model that rewrites, and minimal edits of what was wrong.

    L = mean over trained tokens of -sg[min(rho_t R_t, clip(rho_t) R_t)] l_t      in given completions, where R_t != 0
                                    -nll_weight w_t l_t                           in the rewrites of the wrong ones
    R_t = clip(p_t - 1/2, 0, 1/2) in right completions, clip(p_t - 1/2, -penalty, 0) in wrong ones

p_t is the probability that the reference, here the rewriting model, gives the token; w_t is 1 on the tokens that the
rewrite changes and `kept_weight` on the others. The ratio rho_t to the policy of before the step is a constant: this is
weighted likelihood, not PPO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    penalty: PositiveFloat = 0.1
    """Most that a token of a wrong completion loses."""
    clip_low: Fraction = 0.3
    """Ratios below 1 - clip_low weigh what is penalised no less; they matter with several updates per batch."""
    clip_high: PositiveFloat = 0.3
    """Ratios above 1 + clip_high weigh what is rewarded no more."""
    nll_weight: NonNegativeFloat = 1.0
    """Of the rewrites' negative log-likelihood."""
    kept_weight: Fraction = 0.5
    """In it, of the tokens that the rewrite took over; the changed ones have 1."""


def estimate(config: Config, batch: Batch) -> Batch:
    """Writes R_t on the completions' tokens and nll_weight x w_t on those of the rewrites as advantages."""
    mask = batch.action_mask
    right = batch.side[batch.segment[mask]] > 0
    weights = ops.edits.token_rewards(batch.require("ref_logprobs")[mask], right, penalty=config.penalty)
    tokens, segment = batch.tokens[mask], batch.segment[mask]
    for rewrite in (batch.side == 0).nonzero().squeeze(-1).tolist():
        [original] = ((batch.group == batch.group[rewrite]) & (batch.side != 0)).nonzero().squeeze(-1).tolist()
        sides = [tokens[segment == sequence].tolist() for sequence in (original, rewrite)]
        share = [1.0 if new else config.kept_weight for new in ops.edits.changed(*sides)]
        weights[segment == rewrite] = config.nll_weight * weights.new_tensor(share)
    return batch.replace(advantages=batch.scatter(weights))


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    mask = batch.action_mask
    logprobs, weights = outputs.logprobs[mask], batch.require("advantages")[mask]
    side = batch.side[batch.segment[mask]]
    old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs[mask]
    ratio, low, high = ops.policy.ratio(logprobs.detach(), old), 1 - config.clip_low, 1 + config.clip_high
    surrogate = ops.policy.clipped(ratio, weights, low=low, high=high)
    trained = weights != 0
    loss = (surrogate.where(side != 0, -weights) * logprobs)[trained]
    metrics = {
        "loss/policy": Mean.of(loss),
        "loss/nll": Mean.of(-logprobs[side == 0]),
        "edits/rewarded_frac": Mean.of(trained[side > 0]),
        "edits/penalised_frac": Mean.of(trained[side < 0]),
        "policy/clip_frac": Mean.of(((ratio < low) | (ratio > high))[side != 0]),
        "policy/entropy": Mean.of(outputs.entropy[mask]),
    }
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    return []  # any model is a reference; rewards, where given, grade the evaluation only


def explain(config: Config) -> str:
    rewards = f"p - 1/2 of the reference, in right completions at least 0, in wrong ones -{config.penalty:g} to 0"
    rewrites = f"{config.nll_weight:g} x log p(rewrite), tokens that it took over x {config.kept_weight:g}"
    return f"maximise log p(token) x R, R = {rewards}; + {rewrites}"


ALGORITHM = Algorithm(
    config=Config,
    source="rewrites",
    needs=lambda config: ("ref_logprobs",),
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
)
