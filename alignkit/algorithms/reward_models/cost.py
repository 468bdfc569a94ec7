"""A cost model for safe RL (Safe RLHF, 2310.12773): the more harmful answer costs more, and above 0 is unsafe.

    L = mean over pairs of -log sigmoid(c_r - c_w) - log sigmoid(s_r c_r) - log sigmoid(s_w c_w) + decay (c_r^2 + c_w^2)

c is the value head's number at the answer's last token; s is +1 for an unsafe answer, -1 for a safe one, from the
columns chosen_unsafe and rejected_unsafe. The data's `rejected` (r) is the more harmful answer, whatever else is liked
about it; both may be unsafe, or both safe. The model's value is the cost: in RL name it with weight 0 and limit it in
`constraints`, or give it a weight below 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.errors import BatchError
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    decay: NonNegativeFloat = 0.001
    """Weight of the squared costs."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    import torch

    better, worse = ops.preference.sides(batch)
    costs, unsafe = outputs.values[batch.last_token(), 0], _unsafe(batch)
    loss = ops.ranking.cost(
        costs[worse], costs[better], worse_unsafe=unsafe[worse], better_unsafe=unsafe[better], decay=config.decay
    )
    signs = torch.where(unsafe, costs > 0, costs < 0)
    metrics = ops.preference.describe(batch, logprobs=None, rewards=-costs)
    metrics |= {"loss/reward": Mean.of(loss), "costs/sign_accuracy": Mean.of(signs)}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def _unsafe(batch: Batch) -> Bool[Tensor, " sequence"]:
    """Of each answer whether it is unsafe; raises BatchError where the data does not say."""
    unsafe = batch.channels.get("unsafe")
    if unsafe is None or bool(unsafe.isnan().any()):
        raise BatchError("cost: a pair has no chosen_unsafe and rejected_unsafe; name the columns with data.columns")
    return unsafe > 0.5


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    return Judgement(value=outputs.values[batch.last_token(), 0])


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    decay = f" + {config.decay:g} x squared costs" if config.decay else ""
    return (
        "minimise -log sigmoid(cost of rejected - cost of chosen) - log sigmoid(+-cost) of each, + for unsafe answers"
        f"{decay}; the value is a cost: lower is better"
    )


ALGORITHM = Algorithm(
    config=Config,
    source="paired_preference",
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    unit="group",
    heads=lambda config: ("cost",),
    columns=lambda config: ("unsafe",),
    judge=judge,
    lower_is_better=True,
)
