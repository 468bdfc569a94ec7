"""SWEET-RL's advantage model (arXiv 2503.15478): a language model that is told what the policy is not.

    L = mean over pairs -log sigmoid( beta (sum_k A_k of the better episode - sum_k A_k of the worse) )
    A_k = mean over the tokens t of utterance k of (l_t - l_ref_t)

Both logs are read behind the privileged information of the episode (the hidden number, the reference answer), all that
was said before, and nothing that comes later. Learnt from whole episodes of one task, it says how much better than what
the reference would have said an utterance is; the mean keeps long utterances from counting more. The paper begins with
the policy, which is the reference too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    beta: PositiveFloat = 0.1
    """Scale of what an episode is worth in its comparison with another."""
    episode: Literal["sum", "mean"] = "sum"
    """An episode is worth the sum of its advantages (the paper's), or their mean: where a return counts turns, their
    number alone can explain it by the sum, with every utterance bad."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def worth(config: Config, outputs: Outputs, batch: Batch) -> Float[Tensor, " sequence"]:
    """The advantages of an episode's utterances, added up or their mean; of one utterance its advantage."""
    turns, mask = ops.turns.turns(batch), batch.action_mask
    ratios = (outputs.logprobs - batch.require("ref_logprobs"))[mask]
    tokens = turns.of.bincount()[turns.of]
    total = ratios.new_zeros(batch.num_sequences).index_add(0, batch.segment[mask], ratios / tokens)
    return total if config.episode == "sum" else total / turns.sequence.bincount(minlength=len(total)).clamp(min=1)


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    better, worse = ops.preference.sides(batch)
    scores = config.beta * worth(config, outputs, batch)
    loss = ops.preference.logistic(scores[better] - scores[worse])
    metrics = ops.preference.describe(batch, logprobs=outputs.logprobs, rewards=scores)
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics | {"loss/reward": Mean.of(loss)})


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    advantage = "A = mean log-ratio of an utterance's tokens to the reference, both told what the policy is not"
    worth = f"{config.episode} A(better episode) - {config.episode} A(worse episode)"
    return f"minimise -log sigmoid({config.beta:g} x ({worth})), {advantage}"


ALGORITHM = Algorithm(
    config=Config,
    source="paired_episodes",
    needs=lambda config: REFERENCE,
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    judge=lambda config, outputs, batch: Judgement(value=worth(config, outputs, batch)),
    unit="group",
)
