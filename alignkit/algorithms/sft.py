"""SFT: maximise the log-likelihood of given completions, loss = -sum_t l_t over completion tokens.

The stop token that ends a completion is one of the trained tokens; prompt tokens never are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    aggregate: Literal["token_mean", "sequence_mean_token_mean"] = "token_mean"
    """Mean over all completion tokens, or over sequences of their token means (long answers count no more)."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    from alignkit.ops.aggregate import aggregate

    mask = batch.action_mask
    nll = -outputs.logprobs[mask]
    total, count = aggregate(nll, batch, config.aggregate)
    metrics = {
        "loss/policy": Mean(float(total.detach()), count),
        "policy/entropy": Mean.of(outputs.entropy[mask]),
    }
    return Loss(total=total, count=count, metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    return []  # rewards, where given, grade the evaluation only


def explain(config: Config) -> str:
    return f"minimise the {config.aggregate.replace('_', ' ')} of -log p(completion token | prompt, earlier tokens)"


ALGORITHM = Algorithm(
    config=Config,
    source="sft",
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
)
