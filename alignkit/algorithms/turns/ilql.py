"""ILQL (arXiv 2206.11871): implicit Q-learning on tokens of offline episodes, whose critics steer a cloned policy.

    Q_j(s, a) -> lambda-return of r + discount V(s'),   V: expectile regression on min_j Qb_j(s, a), Qb slow copies
    L_critic = sum_j (Q_j - aim)^2 + |expectile - 1[Qb < V]| (Qb - V)^2 - cql_weight sum_j log softmax(Q_j(s, .))[a]
    L = -l_t of the same episodes;   spoken is softmax(log pi + beta min_j Qb_j(s, .)), from which V cancels

All are means over the tokens that the policy chose; s' is the state before the next of them, whatever the environment
said in between. The term of CQL keeps tokens that were never played below those that were. MC returns of LMRL-Gym
(arXiv 2311.18232) are `q_lambda: 1` and `expectile: 0.5`: Q is fitted to what was earned from the token on, V its mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat

from alignkit import ops
from alignkit.algorithms import sft
from alignkit.algorithms.base import Algorithm, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean
from alignkit.types.needs import Needs

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch

Q, ALL, V = slice(0, 2), slice(2, 4), 4  # of the heads: scores of the token, their logsumexps over all, the state's


class Config(sft.Config):
    beta: NonNegativeFloat = 1.0
    """How far the critics move what is spoken: nats for a unit of return. 0: the cloned policy as it is."""
    discount: Fraction = 0.99
    """Of the next token."""
    target_rate: Fraction = Field(default=0.005, gt=0)
    """Share of the way that the slow critics go towards the critics after each of their updates."""
    expectile: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """V among the tokens played: 0.5 is their mean, near 1 the best of them."""
    q_lambda: Fraction = 0.0
    """Lambda of Q's targets. 0, the paper's: one token, then V. 1: what the data's players earned from there on."""
    cql_weight: NonNegativeFloat = 0.01
    """Of -log softmax(Q) at the tokens played."""


def estimate(config: Config, batch: Batch) -> Batch:
    actions, final = batch.actions, batch.reward.new_zeros(batch.num_sequences)  # an episode's last turn ends it
    values, of = batch.require("values")[batch.parent[actions], V], batch.segment[actions]
    paid, how = batch.placed_rewards()[actions], {"discount": config.discount, "trace": config.q_lambda}
    returns = values + ops.advantages.gae(paid, values, final, of, **how)
    return batch.replace(returns=batch.scatter(returns))


def critic_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    actions, returns = batch.actions, batch.require("returns")[batch.actions]
    said, value = outputs.values[actions], outputs.values[batch.parent[actions], V]
    gap = batch.require("target_values")[actions, Q].amin(1) - value
    q_errors = ((said[:, Q] - returns[:, None]) ** 2).sum(1)
    v_errors = (config.expectile - (gap < 0).to(gap)).abs() * gap**2
    unlikely = (said[:, ALL] - said[:, Q]).sum(1)
    loss = q_errors + v_errors + config.cql_weight * unlikely
    means = {"q_error": q_errors / 2, "v_error": v_errors, "cql": unlikely / 2, "value": value, "return": returns}
    metrics = {f"critic/{name}": Mean.of(each) for name, each in means.items()} | {"loss/critic": Mean.of(loss)}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    apart = "ilql speaks with a critic beside the cloned policy: take `shared` out of the stage's critic"
    return [apart] * (stage.critic is not None and stage.critic.shared)


def explain(config: Config) -> str:
    critics = f"discount {config.discount:g} a token, lambda {config.q_lambda:g}, slow copies at {config.target_rate:g}"
    v = f"V the {config.expectile:g} expectile of the slow Q, CQL {config.cql_weight:g}"
    return f"{sft.explain(config)}; critics of tokens by TD, {critics}, {v}; spoken is log p + {config.beta:g} min Q"


ALGORITHM = Algorithm(
    config=Config,
    source="episodes",
    needs=lambda config: Needs(columns=("values", "target_values", "rewards")),
    estimate=estimate,
    losses={"critic": critic_loss, "policy": sft.ALGORITHM.losses["policy"]},
    requires=requires,
    explain=explain,
    heads=lambda config: ("q1", "q2", "all_q1", "all_q2", "value"),
    scored=lambda config: 2,
    normalised=lambda config: True,
    steers=lambda config: config.beta,
)
