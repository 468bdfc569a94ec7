"""A reward model from ratings in ordered classes (rating-based RL, 2307.16348): bad, fair, good, ...

    L = mean over rated answers of -log softmax_i( -sharpness (z - b_i) (z - b_{i+1}) )[class],   z = sigmoid(r)

r is the value head's number at the answer's last token. Class i is likeliest between its bounds b_i and b_{i+1}. These
are set anew for each global batch, before its update: as many of its answers lie between two bounds as were rated so,
b_0 = 0 and b_n = 1. The classes need no distances, only an order. The paper divides returns by the range of the batch
to get z; a sigmoid does not depend on the batch, so the reward of an answer is its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.errors import BatchError
from alignkit.types.metric import Mean
from alignkit.types.needs import Needs

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    objective: str = "rating"
    """The column of the data that holds the rating."""
    classes: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)
    """What people could rate, worst first."""
    sharpness: PositiveFloat = 10.0
    """How surely an answer between two bounds is of that class."""


def estimate(config: Config, batch: Batch) -> Batch:
    """Keeps the rated answers; writes the bounds, the same for all, as their targets."""
    import torch

    ratings = ops.ratings.stack(batch, [config.objective])[:, 0]
    known = ~ratings.isnan()
    kept = batch if bool(known.all()) else batch.select(known.nonzero().squeeze(-1).tolist())
    if not kept.num_sequences:
        return kept
    share = kept.require("values")[kept.last_token(), 0].sigmoid()
    frequencies = torch.bincount(_classes(config, kept), minlength=len(config.classes)).to(share)
    bounds = ops.ranking.rating_bounds(share, frequencies)
    return kept.replace(targets=bounds.expand(kept.num_sequences, -1).clone())


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    import torch

    share, classes = outputs.values[batch.last_token(), 0].sigmoid(), _classes(config, batch)
    bounds = batch.require("targets")[0]
    loss = ops.ranking.rating_loss(share, classes, bounds, sharpness=config.sharpness)
    right = torch.bucketize(share, bounds[1:-1]) == classes
    metrics = {"loss/reward": Mean.of(loss), "ratings/accuracy": Mean.of(right)}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def _classes(config: Config, batch: Batch) -> Int[Tensor, " sequence"]:
    """The number of each answer's class; raises BatchError for a rating that is none of them."""
    same = ops.ratings.stack(batch, [config.objective]) == batch.reward.new_tensor(config.classes)
    if not bool(same.any(-1).all()):
        unknown = batch.channels[config.objective][~same.any(-1)][0].item()
        wanted = ", ".join(f"{value:g}" for value in config.classes)
        raise BatchError(f"rating: {config.objective} is {unknown:g} in a row; algorithm.classes are {wanted}")
    return same.int().argmax(-1)


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    share = outputs.values[batch.last_token(), 0].sigmoid()
    return Judgement(value=share, parts={config.objective: share})


def requires(config: Config, stage: Stage) -> list[str]:
    problems = []
    if len(config.classes) < 2 or list(config.classes) != sorted(set(config.classes)):
        problems.append("classes must rise, worst first: list every rating that people could give, once")
    if (stage.train.batch or 0) < 2 * len(config.classes):
        few = f"batch is too small for bounds between {len(config.classes)} classes"
        problems.append(f"{few}: set train.batch to at least {2 * len(config.classes)}")
    return problems


def explain(config: Config) -> str:
    return (
        f"minimise the cross-entropy of {len(config.classes)} ordered classes of {config.objective}, likeliest where "
        f"sigmoid(score) lies between their bounds, sharpness {config.sharpness:g}; bounds: quantiles of each batch"
    )


ALGORITHM = Algorithm(
    config=Config,
    source="rated",
    needs=lambda config: Needs(columns=("values",)),
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    heads=lambda config: ("score",),
    columns=lambda config: (config.objective,),
    judge=judge,
)
