"""An implicit process reward model (PRIME, 2502.01456): a language model whose log-ratio to its start is the reward.

    L = mean -y log s - (1 - y) log(1 - s),   s = sigmoid(beta sum_t (l_t - l_ref_t)),   y the outcome of the answer

Learnt from outcomes alone, it says a reward for every token, beta (l_t - l_ref_t); a step's is their sum. PRIME updates
it during RL; here it is trained first, from the reference that the recipe names (default: where it began).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE
from alignkit.types.steps import StepRule

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    objective: str = "rating"
    """Column of the data with the outcome: true or false, 1 or 0, or a share."""
    beta: PositiveFloat = 0.05
    """Scale of the log-ratio."""
    split: Literal["blank_line", "newline", "sentence"] = "newline"
    """The steps whose values it says when it scores."""
    pattern: str | None = None
    """A regular expression instead: a step ends after each match."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    logits = judge(config, outputs, batch).value
    outcomes = ops.ratings.stack(batch, [config.objective])[:, 0]
    loss, known = ops.ratings.logistic(logits, outcomes), ~outcomes.isnan()
    right = ((logits > 0) == (outcomes > 0.5))[known]
    metrics = {"loss/reward": Mean.of(loss[known]), "outcomes/accuracy": Mean.of(right)}
    return Loss(total=loss.sum(), count=int(known.sum()), metrics=metrics)


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    tokens = config.beta * (outputs.logprobs - batch.require("ref_logprobs")).where(batch.action_mask, 0.0)
    return Judgement(value=batch.sum_per_sequence(tokens), steps=tokens)


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    return (
        f"minimise the cross-entropy of sigmoid({config.beta:g} x log-ratio to the reference) with {config.objective}"
    )


ALGORITHM = Algorithm(
    config=Config,
    source="rated",
    needs=lambda config: REFERENCE,
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    columns=lambda config: (config.objective,),
    judge=judge,
    steps=lambda config: StepRule(split=config.split, pattern=config.pattern),
)
