"""A preference model that reads both answers at once (2306.02561, 2405.07863): which of these two is better?

    L = mean over pairs of -1/2 ( log sigmoid(z(w, l)) + log sigmoid(-z(l, w)) ),   z(a, b): "a, the first, is better"

The prompt, one answer and the other follow one another, each answer with its stop token; z is the value head's number
at the last token. Every pair is read in both orders, which leaves a liking for a place nothing to gain; judged in both,
it cancels: (z(a, b) - z(b, a)) / 2. As a reward it says by how much an answer beats the task's `reference`, in
log-odds: 0 for one as good. No scale need be shared by all answers, so preferences need not be transitive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    pass


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen_last, rejected_last = ops.preference.sides(batch)
    first_better = outputs.values[batch.last_token(), 0]
    loss = ops.ranking.two_responses(first_better[rejected_last], first_better[chosen_last])
    metrics = ops.preference.describe(batch, logprobs=None, rewards=_lead(outputs, batch))
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics | {"loss/reward": Mean.of(loss)})


def _lead(outputs: Outputs, batch: Batch) -> Float[Tensor, " sequence"]:
    """Log-odds that each sequence's own answer, its last, beats the other one, over the two orders of its group."""
    own_second, group = outputs.values[batch.last_token(), 0], batch.group
    own_first = 2 * ops.groups.mean(own_second, group) - own_second
    return ops.ranking.unbiased_logit(own_first, own_second)


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    return Judgement(value=_lead(outputs, batch))


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    return "minimise -log sigmoid(logit that the better of two answers is the better), read in both orders"


ALGORITHM = Algorithm(
    config=Config,
    source="pairwise",
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    unit="group",
    heads=lambda config: ("first",),
    judge=judge,
)
