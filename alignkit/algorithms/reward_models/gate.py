"""A reward model whose prompt decides what counts: a gate over objectives that are known already.

    r = c sum_k g_k(prompt) s_k(answer),   g = softmax(gate / temperature),   L = mean -log sigmoid(r_w - r_l)

s_k are the objectives' heads of the reward model that the recipe begins with (`multi_objective` or `quantile`, in
`model.path`); they stay as they are. The gate and c are read at the prompt's last token. With quantiles the mix is
level by level, and s_k their mean. ArmoRM (2406.12845); QRM (2409.10164), stage 2; their gates have three layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat, PositiveInt

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    objectives: tuple[str, ...] = ("rating",)
    """Those of the reward model that this one begins with, in its order."""
    levels: PositiveInt = 1
    """Quantiles of each; 1 for a model of type multi_objective."""
    monotone: bool = True
    """As that model was trained."""
    temperature: PositiveFloat = 10.0
    """The gate's; the higher, the more even."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def mixed(
    config: Config, outputs: Outputs, batch: Batch
) -> tuple[Float[Tensor, "sequence level"], Float[Tensor, "sequence objective"]]:
    """(quantiles of the reward, the gate)."""
    count, levels = len(config.objectives), config.levels
    raw = outputs.values[batch.last_token(), : count * levels].detach().unflatten(-1, (count, levels))
    said = ops.quantiles.monotone(raw) if config.monotone else raw
    asked = outputs.values[batch.last_prompt_token(), count * levels :]
    gate = (asked[:, :count] / config.temperature).softmax(-1)
    return asked[:, count].exp()[:, None] * ops.quantiles.mix(gate, said), gate


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    scores = mixed(config, outputs, batch)[0].mean(-1)
    loss = ops.ranking.bradley_terry(scores[chosen], scores[rejected])
    metrics = ops.preference.describe(batch, logprobs=None, rewards=scores)
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics | {"loss/reward": Mean.of(loss)})


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    said, gate = mixed(config, outputs, batch)
    parts = {f"gate {name}": column for name, column in zip(config.objectives, gate.T, strict=True)}
    return Judgement(value=said.mean(-1), parts=parts, spread=said if config.levels > 1 else None)


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    return f"minimise -log sigmoid(chosen - rejected) of a gate over {', '.join(config.objectives)}, these held fixed"


def heads(config: Config) -> tuple[str, ...]:
    levels = [""] if config.levels == 1 else [f"@{level}" for level in range(1, config.levels + 1)]
    given = [f"{name}{level}" for name in config.objectives for level in levels]
    return (*given, *(f"gate {name}" for name in config.objectives), "gate scale")


ALGORITHM = Algorithm(
    config=Config,
    source="paired_preference",
    estimate=estimate,
    losses={"reward": reward_loss},
    requires=requires,
    explain=explain,
    unit="group",
    heads=heads,
    judge=judge,
)
