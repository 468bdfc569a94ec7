"""A reward model with one head per objective, learnt from ratings (2402.18571, ArmoRM 2406.12845 stage 1).

    L = mean over known ratings of (s_k - y_k)^2, or of the cross-entropy of sigmoid(s_k) with y_k in [0, 1]

s_k is head k at the answer's last token. `logistic` with one objective is an outcome verifier (2110.14168). What
mix of the objectives is paid is decided by the weights here, by a `gate`, or by a direction in the prompt (DPA).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    objectives: tuple[str, ...] = ("rating",)
    """Columns of the data that hold ratings; an answer may lack some."""
    loss: Literal["squared", "logistic"] = "squared"
    """`logistic` for ratings that are shares, or labels 0 and 1; the model then says probabilities."""
    weights: tuple[float, ...] = ()
    """Of each objective in the reward; default: their mean."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    scores = outputs.values[batch.last_token(), : len(config.objectives)]
    ratings = ops.ratings.stack(batch, config.objectives)
    each = ops.ratings.squared(scores, ratings) if config.loss == "squared" else ops.ratings.logistic(scores, ratings)
    known = ~ratings.isnan()
    return Loss(total=each.sum(), count=int(known.sum()), metrics={"loss/reward": Mean.of(each[known])})


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    scores = outputs.values[batch.last_token(), : len(config.objectives)]
    scores = scores.sigmoid() if config.loss == "logistic" else scores
    weights = scores.new_tensor(config.weights or [1 / len(config.objectives)] * len(config.objectives))
    return Judgement(value=scores @ weights, parts=dict(zip(config.objectives, scores.T, strict=True)))


def requires(config: Config, stage: Stage) -> list[str]:
    if config.weights and len(config.weights) != len(config.objectives):
        return [f"weights has {len(config.weights)} entries for {len(config.objectives)} objectives: give one for each"]
    return []


def explain(config: Config) -> str:
    what = "squared error" if config.loss == "squared" else "cross-entropy"
    return f"minimise the {what} of one head for each of {', '.join(config.objectives)}"


ALGORITHM = Algorithm(
    config=Config,
    source="rated",
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    heads=lambda config: config.objectives,
    columns=lambda config: config.objectives,
    judge=judge,
)
