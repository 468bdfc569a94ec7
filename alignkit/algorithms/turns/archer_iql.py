"""ArCHer's offline variant (arXiv 2402.19446): implicit Q-learning on the turns of offline episodes, no environment.

    Q_j(o, u) -> r + discount Vb_j(o'),   V_j by expectile regression on Qb_j(o, u) of the utterances in the data
    L = -exp(sharpness A) sum_t l_t,      A = min_j Q_j(o, u) - min_j V_j(o),   the weight capped

An expectile near 1 makes V the value of the best utterances seen instead of the average one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean
from alignkit.types.needs import Needs

if TYPE_CHECKING:
    from alignkit.types.batch import Batch

Q, V = slice(0, 2), slice(2, 4)
MOST = 100.0  # a weight beyond it is one lucky turn, and exp has no other bound


class Config(AlgorithmConfig):
    discount: Fraction = 0.95
    """Of the next turn."""
    target_rate: Fraction = Field(default=0.05, gt=0)
    """Share of the way that the slow critics go towards the critics after each step."""
    expectile: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """0.5 is the mean of the data's utterances, near 1 the best of them."""
    sharpness: PositiveFloat = 1.0
    """How much more the better utterances weigh."""


def estimate(config: Config, batch: Batch) -> Batch:
    values, slow = batch.require("values"), batch.require("target_values")
    end, start = batch.last_action(), batch.parent[batch.first_action()]
    over = batch.last_token() == end  # nothing follows the utterance: the episode ended with it
    targets = slow[end, :4].clone()
    targets[:, V] = slow[end, Q]
    targets[:, Q] = batch.reward[:, None] + config.discount * slow[batch.last_token(), V] * ~over[:, None]
    advantages = values[end, Q].amin(1) - values[start, V].amin(1)
    return batch.replace(targets=targets, advantages=batch.spread(advantages))


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    mask = batch.action_mask
    weight = (config.sharpness * batch.require("advantages")[mask]).exp().clamp(max=MOST)
    loss, count = -weight * outputs.logprobs[mask], float(batch.num_sequences)
    metrics = {"loss/policy": Mean(float(loss.detach().sum()), count), "policy/entropy": Mean.of(outputs.entropy[mask])}
    return Loss(total=loss.sum(), count=count, metrics=metrics)


def critic_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    targets, start = batch.require("targets"), batch.parent[batch.first_action()]
    q_errors = (outputs.values[batch.last_action(), Q] - targets[:, Q]) ** 2
    gap = targets[:, V] - outputs.values[start, V]
    v_errors = (config.expectile - (gap < 0).float()).abs() * gap**2
    total, count = q_errors.sum() + v_errors.sum(), float(batch.num_sequences)
    metrics = {"critic/q_error": Mean.of(q_errors), "critic/v_error": Mean.of(v_errors)}
    metrics |= {"loss/critic": Mean(float(total.detach()), count), "critic/value": Mean.of(outputs.values[start, V])}
    return Loss(total=total, count=count, metrics=metrics)


def explain(config: Config) -> str:
    return (
        f"minimise -exp({config.sharpness:g} A) log p(utterance in the data), A = min Q - min V; V the "
        f"{config.expectile:g} expectile, discount {config.discount:g}, slow copies at rate {config.target_rate:g}"
    )


ALGORITHM = Algorithm(
    config=Config,
    source="transitions",
    needs=lambda config: Needs(columns=("values", "target_values")),
    estimate=estimate,
    losses={"critic": critic_loss, "policy": policy_loss},
    requires=lambda config, stage: [],
    explain=explain,
    heads=lambda config: ("q1", "q2", "v1", "v2"),
)
