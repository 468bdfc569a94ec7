"""GiGPO (arXiv 2505.10978): groups within groups. Episodes of one task are compared, and turns that met the same state.

A_episode = (R - mean_group R) / (std_group R + eps),   A_turn = (G_k - mean_state G) / (std_state G + eps)
A = A_episode + step_weight A_turn,   L = token mean of -min(rho A, clip(rho) A)

R is the return of the episode, G_k the discounted return from turn k on. A state is what the environment said since the
last utterance (the prompt, at first): episodes of a group come back to it, or meet it together. Alone in its state a
turn has A_turn = 0. Without `scale` nothing is divided, and a state's mean is over the other turns alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean
from alignkit.types.needs import Needs

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    step_weight: NonNegativeFloat = 1.0
    """Of the comparison of turns in one state; 0: episodes alone, as grpo."""
    discount: Fraction = 0.95
    """Of the next turn, in what turns are compared by."""
    scale: Literal["std", "none"] = "std"
    """Divide by the standard deviation of the group and of the state, or not: then others alone are the baseline."""
    clip_low: Fraction = 0.2
    """Ratios below 1 - clip_low give no further incentive."""
    clip_high: PositiveFloat = 0.2
    """Ratios above 1 + clip_high likewise."""
    correction_cap: PositiveFloat = 2.0
    """Largest importance weight for the gap between sampler and trainer."""


def estimate(config: Config, batch: Batch) -> Batch:
    turns = ops.turns.turns(batch)
    steps = ops.relative.relative(
        ops.turns.returns(batch, turns, discount=config.discount), ops.turns.anchors(batch, turns), config.scale
    )
    rollouts = ops.groups.rollouts(batch)
    episodes = ops.relative.relative(batch.reward[rollouts.first], rollouts.group, config.scale)[rollouts.of]
    advantages = episodes[turns.sequence] + config.step_weight * steps
    return batch.replace(advantages=batch.scatter(advantages[turns.of]))


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    terms, low, high = ops.policy_terms.policy_terms(outputs, batch), 1 - config.clip_low, 1 + config.clip_high
    loss = ops.policy.clipped(terms.ratio, terms.advantages, low=low, high=high)
    loss = terms.weighed(loss, cap=config.correction_cap)
    metrics = terms.metrics | ops.policy_terms.clipping(terms.ratio, low=low, high=high)
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics | {"loss/policy": Mean.of(loss)})


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "gigpo compares episodes of one task: set rollouts.group to at least 2"
    return [alone] * (stage.rollouts.group < 2)


def explain(config: Config) -> str:
    how = "in units of their spread" if config.scale == "std" else "less the mean of the others"
    turns = f"{config.step_weight:g} x their turns that met the same state (discount {config.discount:g})"
    return f"maximise E[A] by clipped ratios; A compares episodes of a task, and {turns}, {how}"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: Needs(columns=("sampler_logprobs", "rewards")),
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
)
