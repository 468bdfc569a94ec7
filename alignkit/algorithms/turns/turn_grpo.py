"""GRPO by turns: rollouts of a task are compared by their returns, and turn by turn by what was earned from there on.

    A_k = (1 - turn_weight) A(R) + turn_weight A(G_k),   R = return,   G_k = r_k + discount G_k+1
    A(x) = (x - mean x) / (std x + eps) in the group, or x less the others' mean;   of G_k among those with a turn k
    L = token mean of -min(rho A, clip(rho) A)

What earlier turns earned is in R, but not in G_k: it is no merit of turn k. With one turn A is that of grpo, without
`scale` that of rloo, and of LOOP, whose symmetric clipping this has not. A turn that no other rollout came to has A(R).
A rollout of several sequences is paid its whole return in each of them, so there G_k is R; its turns are counted
on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean
from alignkit.types.needs import Needs

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    turn_weight: Fraction = 0.5
    """Of the comparison of turns of one number; 0: rollouts alone, as grpo."""
    discount: Fraction = 1.0
    """Of the next turn, in what turns are compared by."""
    scale: Literal["std", "none"] = "std"
    """Divide by the standard deviation of what is compared, or not: then others alone are the baseline."""
    clip_low: Fraction = 0.2
    """Ratios below 1 - clip_low give no further incentive."""
    clip_high: PositiveFloat = 0.2
    """Ratios above 1 + clip_high likewise."""
    correction_cap: PositiveFloat = 2.0
    """Largest importance weight for the gap between sampler and trainer."""


def estimate(config: Config, batch: Batch) -> Batch:
    turns, rollouts = ops.turns.turns(batch), ops.groups.rollouts(batch)
    rollout = rollouts.of[turns.sequence]
    number = ops.turns.numbers(rollout)
    met = rollouts.group[rollout] * (number.max() + 1) + number
    whole = ops.relative.relative(batch.reward[rollouts.first], rollouts.group, config.scale)[rollout]
    ahead = ops.turns.returns(batch, turns, discount=config.discount)
    each = ops.relative.relative(ahead, met, config.scale).where(ops.groups.size(met) > 1, whole)
    return batch.replace(advantages=batch.scatter(whole.lerp(each, config.turn_weight)[turns.of]))


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    terms, low, high = ops.policy_terms.policy_terms(outputs, batch), 1 - config.clip_low, 1 + config.clip_high
    loss = ops.policy.clipped(terms.ratio, terms.advantages, low=low, high=high)
    loss = terms.weighed(loss, cap=config.correction_cap)
    metrics = terms.metrics | ops.policy_terms.clipping(terms.ratio, low=low, high=high)
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics | {"loss/policy": Mean.of(loss)})


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "turn_grpo compares rollouts of one task: set rollouts.group to at least 2"
    return [alone] * (stage.rollouts.group < 2)


def explain(config: Config) -> str:
    how = "in units of their spread" if config.scale == "std" else "less the mean of the others"
    turns = f"{config.turn_weight:g} of it the return from turn k on (discount {config.discount:g}) among turns k"
    return f"maximise E[A] by clipped ratios; A compares returns of a task, and {turns}, {how}"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: Needs(columns=("sampler_logprobs", "rewards")),
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
)
