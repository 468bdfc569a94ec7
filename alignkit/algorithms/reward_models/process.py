"""A process reward model: how good each step of a solution is (2305.20050; ER-PRM 2412.11006).

    L = mean over steps of -y log s - (1 - y) log(1 - s),   s = sigmoid(head at the step's last token)

Labels y are hard or soft (`alignkit label-steps` makes them from roll-outs). With `tag` a marker ends every step and is
where the head is read, as models with label tokens do it; theirs is the difference of two words' logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs, StepRule
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    split: Literal["blank_line", "newline", "sentence"] = "newline"
    """How an answer is read in steps when it is scored."""
    pattern: str | None = None
    """A regular expression instead: a step ends after each match."""
    tag: str = ""
    """Text put after every step, in training and when scoring."""
    until_first_error: bool = False
    """Leave out what follows a solution's first wrong step, which is neither right nor wrong (2501.07301)."""
    value: Literal["min", "product", "last", "mean"] = "min"
    """A solution's reward from its steps' probabilities."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    steps, labels = batch.action_mask, batch.require("rewards")
    if config.until_first_error:
        steps = steps & ops.step_labels.before_errors(labels, steps, batch.segment)
    logits = outputs.values[steps, 0]
    loss = ops.step_labels.step_loss(logits, labels[steps])
    right = (logits > 0) == (labels[steps] > 0.5)
    metrics = {"loss/reward": Mean.of(loss), "steps/accuracy": Mean.of(right), "steps/label": Mean.of(labels[steps])}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    good = outputs.values[:, 0].sigmoid().where(batch.action_mask, 0.0)
    return Judgement(value=_values(good, config, batch), steps=good)


def _values(good: Float[Tensor, " token"], config: Config, batch: Batch) -> Float[Tensor, " sequence"]:
    owner = batch.segment[batch.action_mask]
    each = good[batch.action_mask]
    how = {"min": "amin", "product": "prod", "mean": "mean"}
    if config.value == "last":
        return good[batch.last_action()]
    blank = good.new_ones(batch.num_sequences)
    return blank.scatter_reduce(0, owner, each, how[config.value], include_self=False)


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    until = ", up to the first wrong one" if config.until_first_error else ""
    return f"minimise the cross-entropy of each step's probability with its label{until}; reward: their {config.value}"


ALGORITHM = Algorithm(
    config=Config,
    source="stepwise_supervision",
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    heads=lambda config: ("good",),
    steps=lambda config: StepRule(split=config.split, pattern=config.pattern, tag=config.tag, alone=True),
    judge=judge,
)
