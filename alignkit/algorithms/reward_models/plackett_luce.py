"""A reward model from rankings of several answers (Plackett-Luce; best of K as in 1909.08593).

    L = mean over rankings of sum_i -log( e^{r_i} / (e^{r_i} + sum_{j worse than i} e^{r_j}) ) + centring (2 mean r)^2

r is the value head's number at the answer's last token. Without ties the sum is -log of the ranking's probability under
Plackett-Luce, of two answers Bradley-Terry. Answers with equal scores are never compared: each competes with the worse
ones alone, so a tie teaches nothing about its own order, and a group of nothing but ties is left out. With `learn:
best` the sum is over the best only (their mean, where several share the first place).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    learn: Literal["ranking", "best"] = "ranking"
    """All of the order, or only which answer is the best."""
    centring: NonNegativeFloat = 0.01
    """Weight of the square of twice the mean score of a ranking's answers, which fixes the free constant."""


def estimate(config: Config, batch: Batch) -> Batch:
    """Drops the groups whose answers are all rated alike."""
    told = ops.groups.std(batch.reward, batch.group) > 0
    return batch if bool(told.all()) else batch.select(told.nonzero().squeeze(-1).tolist())


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    scores, group = outputs.values[batch.last_token(), 0], batch.group
    costs = ops.ranking.plackett_luce(scores, batch.reward, group)
    if config.learn == "best":
        costs = costs * _best(batch)
    centring = config.centring * (2 * ops.groups.mean(scores, group)) ** 2 / ops.groups.size(group)
    loss, count = (costs + centring).sum(), len(group.unique())
    leads = (scores[:, None] - scores)[ops.ranking.beaten(batch.reward, group)]
    metrics = {"loss/reward": Mean(float(loss.detach()), count), "pairs/margin": Mean.of(leads)}
    return Loss(total=loss, count=count, metrics=metrics | {"pairs/accuracy": Mean.of((leads > 0) + (leads == 0) / 2)})


def _best(batch: Batch) -> Float[Tensor, " sequence"]:
    """1 / n for each of the n best answers of a group, 0 for the others."""
    dominated = ops.ranking.beaten(batch.reward, batch.group).any(0)
    top = (~dominated).to(batch.reward)
    return top / (batch.group[:, None] == batch.group).to(top).matmul(top)


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    return Judgement(value=outputs.values[batch.last_token(), 0])


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    centring = f" + {config.centring:g} (2 x mean score)^2" if config.centring else ""
    over = "each answer" if config.learn == "ranking" else "the best answer"
    return f"minimise -log softmax of {over}'s score among itself and the worse ones{centring}; ties are not compared"


ALGORITHM = Algorithm(
    config=Config,
    source="ranked",
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    unit="group",
    heads=lambda config: ("reward",),
    judge=judge,
)
