"""REFUEL (arXiv 2410.04612): REBEL over several turns, on one turn of an episode that was taken again.

    L = mean over pairs i, j of one context ( [D_i - D_j] - eta [R_i - R_j] )^2,   D = sum of l_t - l_old_t over turn h
    R = return from turn h on, undiscounted: turn h and all that follows is sampled by the policy itself

Only turn h is trained. A group weighs as much as its episode has turns, so that every turn played counts the same:
drawing h within episodes that end by themselves would prefer the turns, and the luck, of short ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.types.metric import Mean
from alignkit.types.rollout import TURNS

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    eta: PositiveFloat = 1.0
    """Step size: the log-ratio that a return of 1 is worth."""
    convention: Literal["code", "paper"] = "code"
    """(D - eta R)^2, or (D / eta - R)^2: eta^2 times smaller a gradient. As for `rebel`."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch.replace(targets=config.eta * batch.reward[:, None])


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    mask, targets = batch.action_mask, batch.require("targets")[:, 0]
    old = outputs.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    moved = batch.sum_per_sequence(outputs.logprobs - old)
    turns = batch.channels.get(TURNS, batch.reward.new_ones(batch.num_sequences))
    loss = turns * ops.choices.pair_gaps(moved - targets, batch.group)
    total = loss.sum() / (1.0 if config.convention == "code" else config.eta**2)
    size = ops.groups.size(batch.group)
    count = float((turns.double() / size)[size > 1].sum())
    means = {"policy/entropy": outputs.entropy[mask]}
    if batch.sampler_logprobs is not None:
        means["policy/kl_sampler"] = (batch.sampler_logprobs - old)[mask]
    metrics = {name: Mean.of(each) for name, each in means.items()}
    return Loss(total=total, count=count, metrics=metrics | {"loss/policy": Mean(float(total.detach()), count)})


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "refuel compares ways to go on from one turn: set rollouts.group to at least 2"
    return [alone] * (stage.rollouts.group < 2)


def explain(config: Config) -> str:
    gap = f"D - {config.eta:g} x R" if config.convention == "code" else f"D / {config.eta:g} - R"
    names = "D = log-ratio of the turn to the last iterate, R = return from it on"
    return f"minimise the mean squared difference of {gap} between ways to go on from one turn of an episode, {names}"


ALGORITHM = Algorithm(
    config=Config,
    source="resets",
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="group",
)
