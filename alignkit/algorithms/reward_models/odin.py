"""A reward model that does not pay for length (ODIN, 2402.07319): of two heads one takes what length explains.

    L = mean over pairs of -log sigmoid(s_w - s_l) + centring (s_w + s_l)^2 + length_weight (|corr(q, n)| - corr(l, n))

s = q + l, the heads' numbers at the answer's last token; n is the answer's length in tokens. Scoring drops l: the
reward is q. The correlations are over both sides of the whole global batch: their slopes are taken before its update,
and each micro-batch applies its part, which gives exactly the gradient of the undivided batch. The paper also makes the
two heads' weights orthogonal, which a loss on their outputs cannot see; here it is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean
from alignkit.types.needs import Needs

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    length_weight: NonNegativeFloat = 1.0
    """Of the correlations with length: against that of the reward's head, for that of the other."""
    centring: NonNegativeFloat = 0.01
    """Weight of the squared sum of a pair's two scores."""


def estimate(config: Config, batch: Batch) -> Batch:
    """Writes targets: per sequence the slopes of length_weight x correlations in q and l, then corr(q, n), corr(l, n).

    The slopes are multiplied by the number of pairs, as the loss is divided by it.
    """
    import torch

    lengths, pairs = batch.actions_per_sequence(), int((batch.side == 1).sum())
    with torch.enable_grad():
        heads = batch.require("values")[batch.last_token(), :2].double().requires_grad_()
        total = ops.length.disentangle(heads[:, 0], heads[:, 1], lengths)
        (slopes,) = torch.autograd.grad(total, heads)
    found = torch.stack([ops.length.correlation(head, lengths) for head in heads.detach().T])
    columns = [config.length_weight * pairs * slopes, found.expand(len(slopes), 2)]
    return batch.replace(targets=torch.cat(columns, -1).to(batch.reward))


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    heads, targets = outputs.values[batch.last_token(), :2], batch.require("targets")
    scores = heads.sum(-1)
    loss = ops.ranking.bradley_terry(scores[chosen], scores[rejected], centring=config.centring)
    # over the global batch the slopes times the heads sum to 0, whatever the heads' scale: only the gradient is theirs
    pull = (targets[:, :2] * heads).sum()
    quality, absorbed = targets[:, 2], targets[:, 3]
    height = config.length_weight * (quality.abs() - absorbed)[chosen]
    metrics = ops.preference.describe(batch, logprobs=None, rewards=heads[:, 0])
    metrics |= {"loss/reward": Mean.of(loss + height)}
    metrics |= {"lengths/correlation": Mean.of(quality), "lengths/absorbed": Mean.of(absorbed)}
    return Loss(total=loss.sum() + height.sum() + pull, count=len(loss), metrics=metrics)


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    return Judgement(value=outputs.values[batch.last_token(), 0])


def requires(config: Config, stage: Stage) -> list[str]:
    if (stage.train.batch or 0) < 8:
        return ["a correlation over a few pairs is chance: set train.batch to at least 8"]
    return []


def explain(config: Config) -> str:
    return (
        f"minimise -log sigmoid of the lead in quality + length head + {config.length_weight:g} (|correlation of "
        "quality with length| - that of the length head); scored by quality"
    )


ALGORITHM = Algorithm(
    config=Config,
    source="paired_preference",
    needs=lambda config: Needs(columns=("values",)),
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    unit="group",
    heads=lambda config: ("reward", "length"),
    judge=judge,
)
