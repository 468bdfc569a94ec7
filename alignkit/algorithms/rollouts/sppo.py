"""SPPO (arXiv 2405.00675): regress log-ratios to the last iterate on win rates, towards the Nash policy.

    L = mean_i (D_i - eta (P_i - 1/2))^2,   D = sum_t (l_t - l_old_t)
    P_i = mean over the other completions j of the prompt of sigmoid(r_i - r_j)

An approximation of exponential weights, policy x exp(eta P): the average of the iterates goes to the Nash policy. All
completions are trained on, unlike in the authors' code, which keeps the best and the worst of five.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    eta: PositiveFloat = 10.0
    """Step size: half of it is the log-ratio aimed at for a completion that always wins."""


def estimate(config: Config, batch: Batch) -> Batch:
    rollouts = ops.groups.rollouts(batch)
    wins = ops.groups.win_rate(ops.groups.bradley_terry(batch.reward[rollouts.first]), rollouts.group)
    return batch.replace(targets=config.eta * (wins - 0.5)[rollouts.of, None])


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    mask, rollouts = batch.action_mask, ops.groups.rollouts(batch)
    trained = rollouts.sums(batch.actions_per_sequence()) > 0
    old = outputs.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    moved = rollouts.sums(batch.sum_per_sequence(outputs.logprobs - old))
    loss = (moved - batch.require("targets")[rollouts.first, 0])[trained] ** 2
    means = {"policy/entropy": outputs.entropy[mask]}
    if batch.sampler_logprobs is not None:
        means["policy/kl_sampler"] = (batch.sampler_logprobs - old)[mask]
    metrics = {name: Mean.of(each) for name, each in means.items()} | {"loss/policy": Mean.of(loss)}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "sppo lets the completions of a prompt play each other: set rollouts.group to at least 2"
    return [alone] * (stage.rollouts.group < 2)


def explain(config: Config) -> str:
    target = f"{config.eta:g} x (win rate in the group - 1/2)"
    return f"minimise (D - {target})^2, D = log-ratio of a completion to the last iterate; wins by Bradley-Terry"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="rollout",
)
