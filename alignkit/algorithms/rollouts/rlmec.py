"""RLMEC (arXiv 2401.06081): token rewards from a model that rewrites, and imitation of minimal edits.

    L = mean of -R_t l_t                  over tokens of offline completions with R_t != 0
      + nll_weight x mean of -w_t l_t     over right completions and the rewrites of wrong ones
    R_t = clip(p_t - 1/2, 0, 1/2) in right completions, clip(p_t - 1/2, -penalty, 0) in wrong ones

p_t is the probability that the reference, here the rewriting model, gives the token; w_t is 1 where the rewrite differs
and `kept_weight` elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    penalty: PositiveFloat = 0.1
    """Most that a token of a wrong completion loses."""
    nll_weight: NonNegativeFloat = 1.0
    """Of the negative log-likelihood of right completions and of rewrites."""
    kept_weight: Fraction = 0.5
    """In it, of the tokens that a rewrite took over, and of right completions; changed tokens have 1."""


def estimate(config: Config, batch: Batch) -> Batch:
    """Writes as advantages R_t on the completions' tokens, w_t on those of the rewrites.

    R_t is multiplied by (number of imitated tokens) / (number of rewarded ones): the step divides all by the former.
    """
    mask = batch.action_mask
    tokens, segment = batch.tokens[mask], batch.segment[mask]
    side = batch.side[segment]
    rewards = ops.edits.token_rewards(batch.require("ref_logprobs")[mask], side > 0, penalty=config.penalty)
    rewarded = ((rewards != 0) & (side != 0)).sum().clamp(min=1)
    weights = rewards * (side >= 0).sum() / rewarded
    for rewrite in (batch.side == 0).nonzero().squeeze(-1).tolist():
        [original] = ((batch.group == batch.group[rewrite]) & (batch.side != 0)).nonzero().squeeze(-1).tolist()
        sides = [tokens[segment == sequence].tolist() for sequence in (original, rewrite)]
        share = [1.0 if new else config.kept_weight for new in ops.edits.changed(*sides)]
        weights[segment == rewrite] = weights.new_tensor(share)
    return batch.replace(advantages=batch.scatter(weights))


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    mask = batch.action_mask
    logprobs, weights = outputs.logprobs[mask], batch.require("advantages")[mask]
    side = batch.side[batch.segment[mask]]
    rewards, imitated = weights * (side != 0), weights.where(side == 0, config.kept_weight) * (side >= 0)
    loss = -(rewards + config.nll_weight * imitated) * logprobs
    count = float((side >= 0).sum())
    metrics = {
        "loss/policy": Mean(float(loss.detach().sum()), count),
        "loss/nll": Mean.of(-logprobs[side >= 0]),
        "edits/rewarded_frac": Mean.of(weights[side > 0] != 0),
        "edits/penalised_frac": Mean.of(weights[side < 0] != 0),
        "policy/entropy": Mean.of(outputs.entropy[mask]),
    }
    return Loss(total=loss.sum(), count=count, metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    return []  # any model is a reference; rewards, where given, grade the evaluation only


def explain(config: Config) -> str:
    rewards = f"p - 1/2 of the reference, in right completions at least 0, in wrong ones -{config.penalty:g} to 0"
    imitated = (
        f"{config.nll_weight:g} x log p(right completion or rewrite), tokens not changed x {config.kept_weight:g}"
    )
    return f"maximise log p(token) x R, R = {rewards}; + {imitated}"


ALGORITHM = Algorithm(
    config=Config,
    source="rewrites",
    needs=lambda config: REFERENCE,
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
)
