"""REBEL (arXiv 2404.16767): regress differences of log-ratios to the last iterate on differences of rewards.

    L = mean over pairs i, j of one prompt ( [D_i - D_j] - eta [r_i - r_j] )^2,   D = sum_t (l_t - l_old_t)
    r = reward - kl_weight sum_t (l_old_t - l_ref_t),  or the win rate of the completion against the group's others

Solved exactly it gives policy x exp(eta r): eta is a step size. Groups of any size are one loss, since the mean over
distinct pairs is twice the variance of D - eta r in the group. At D = 0 the gradient is 4 eta times that of RLOO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE_KL, Needs

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    eta: PositiveFloat = 1.0
    """Step size: the log-ratio that a reward of 1 is worth. The larger, the less the anchor holds; see docs."""
    convention: Literal["code", "paper"] = "code"
    """(D - eta r)^2 as in the authors' code, or (D / eta - r)^2 as in their paper: eta^2 times smaller a gradient."""
    target: Literal["reward", "win_rate"] = "reward"
    """The reward, or how often it wins within its group under Bradley-Terry (the paper's general preferences)."""
    kl_weight: NonNegativeFloat = 0.0
    """Of the KL to the reference, a sum over the completion, taken from its reward; 0: no reference model."""


def estimate(config: Config, batch: Batch) -> Batch:
    rollouts = ops.groups.rollouts(batch)
    reward, given = ops.groups.rewards(batch, rollouts, kl_weight=config.kl_weight), batch.reward[rollouts.first]
    if config.target == "win_rate":
        wins = ops.groups.win_rate(ops.groups.bradley_terry(given), rollouts.group)
        reward = wins + reward - given
    return batch.replace(targets=config.eta * reward[rollouts.of, None])


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    mask, rollouts = batch.action_mask, ops.groups.rollouts(batch)
    targets, group = batch.require("targets")[rollouts.first, 0], rollouts.group
    old = outputs.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    moved = rollouts.sums(batch.sum_per_sequence(outputs.logprobs - old))
    loss = ops.choices.pair_gaps(moved - targets, group)
    total = loss.sum() / (1.0 if config.convention == "code" else config.eta**2)
    count = float(len(group[ops.groups.size(group) > 1].unique()))
    means = {"entropy": outputs.entropy[mask]}
    if batch.sampler_logprobs is not None:
        means["kl_sampler"] = (batch.sampler_logprobs - old)[mask]
    if batch.ref_logprobs is not None:
        means["kl_reference"] = ops.kl.k1(outputs.logprobs - batch.ref_logprobs)[mask]
    metrics = {f"policy/{name}": Mean.of(each) for name, each in means.items()}
    return Loss(total=total, count=count, metrics=metrics | {"loss/policy": Mean(float(total.detach()), count)})


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "rebel regresses on differences within a prompt: set rollouts.group to at least 2"
    return [alone] * (stage.rollouts.group < 2)


def explain(config: Config) -> str:
    gap = f"D - {config.eta:g} x r" if config.convention == "code" else f"D / {config.eta:g} - r"
    what = "reward" if config.target == "reward" else "win rate in the group"
    kl = f" less {config.kl_weight:g} x KL to the reference" if config.kl_weight else ""
    names = f"D = log-ratio to the last iterate, r = {what}{kl}"
    return f"minimise the mean squared difference of {gap} within a prompt, {names}"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: REFERENCE_KL if config.kl_weight else Needs(),
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="group",
)
