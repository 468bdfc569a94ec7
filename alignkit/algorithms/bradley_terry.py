"""A reward model from preference pairs (Bradley-Terry; 1706.03741, 2203.02155): the better answer shall score higher.

    L = mean over pairs -log sigmoid(r_w - r_l - margin) + centring (r_w + r_l)^2

r is the value head's number at the answer's last token. Only differences within a prompt are learnt; centring
(2312.09244) fixes the constant that is left free, which ensembles, blends and thresholds need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    centring: NonNegativeFloat = 0.01
    """Weight of the squared sum of a pair's two scores."""
    margin: Literal["none", "rewards"] = "none"
    """`rewards`: the chosen answer shall lead by as much as the data's chosen_reward exceeds its rejected_reward."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    scores = outputs.values[batch.last_token(), 0]
    margin = batch.reward[chosen] - batch.reward[rejected] if config.margin == "rewards" else 0.0
    loss = ops.ranking.bradley_terry(scores[chosen], scores[rejected], margin=margin, centring=config.centring)
    metrics = ops.preference.describe(batch, logprobs=None, rewards=scores.detach())
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics | {"loss/reward": Mean.of(loss)})


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    return Judgement(value=outputs.values[batch.last_token(), 0])


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    margin = " - (chosen_reward - rejected_reward)" if config.margin == "rewards" else ""
    centring = f" + {config.centring:g} (chosen + rejected)^2" if config.centring else ""
    return f"minimise -log sigmoid(score of chosen - score of rejected{margin}){centring}"


ALGORITHM = Algorithm(
    config=Config,
    source="pairs",
    needs=lambda config: (),
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    unit="group",
    heads=lambda config: ("reward",),
    judge=judge,
)
