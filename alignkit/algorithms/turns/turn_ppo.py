"""Turn-PPO (arXiv 2512.17008): PPO whose steps are turns. A critic says V of the state before each utterance.

r_k = what turn k was paid,   A_k = GAE over turns of (r, V),   R_k = A_k + V(o_k)
L = token mean of -min(rho_t A_k, clip(rho_t) A_k),   L_V = value_weight max((V - R)^2, (V_clip - R)^2) / 2 over turns

Between two tokens of one utterance nothing is discounted and no critic is asked: what a turn is credited with does not
depend on how many tokens it has. Ratios are those of tokens, as in ppo. Two settings undo that (bi-level GAE, as in
VAGEN, arXiv 2510.16907): with w_k = token_discount^(tokens of turn k - 1)

    A_k = w_k (r_k + discount V(o_k+1)) - V(o_k) + w_k discount gae_lambda A_k+1
    A_t = GAE(token_discount, token_lambda) over the tokens of turn k alone, at whose end R_k / w_k is paid

and with token_lambda the critic learns A_t + V_t before every token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean
from alignkit.types.needs import Needs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.ops.turns import Turns
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    clip_low: Fraction = 0.2
    """Ratios below 1 - clip_low give no further incentive."""
    clip_high: PositiveFloat = 0.2
    """Ratios above 1 + clip_high likewise."""
    clip_value: PositiveFloat | None = 0.2
    """Values further than this from the old ones give no further incentive; null: no value clipping."""
    value_weight: PositiveFloat = 0.1
    """Coefficient of the critic's loss; it matters where critic and policy share layers."""
    discount: Fraction = 0.99
    """Of the next turn."""
    gae_lambda: Fraction = 0.9
    """1 is the whole return minus the value, 0 one turn of it."""
    token_discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of each further token of an utterance, beside that of the next turn."""
    token_lambda: Fraction | None = None
    """Lambda within an utterance, before each of whose tokens the critic is asked; null: all have the turn's advantage.
    1 is the turn's return less the token's own value."""
    correction_cap: PositiveFloat = 2.0
    """Largest importance weight for the gap between sampler and trainer."""
    bootstrap_truncated: bool = False
    """Go on with the critic's value where an episode was cut, as if it continued; otherwise it ends there with 0."""


def estimate(config: Config, batch: Batch) -> Batch:
    turns, values = ops.turns.turns(batch), batch.require("values")[:, :1]
    paid = values.new_zeros(len(turns.last)).index_add(0, turns.of, ops.advantages.paid(batch))
    before, cut = values[turns.before], batch.truncated & config.bootstrap_truncated
    within = 1.0 if config.token_discount == 1 else config.token_discount ** (turns.of.bincount() - 1.0)
    how = {"sequence": turns.sequence, "discount": within * config.discount, "trace": config.gae_lambda}
    ahead = ops.turns.ahead(before, values[batch.last_token()] * cut[:, None], rewards=within * paid, **how)[:, 0]
    returns = ahead + before[:, 0]
    if config.token_lambda is not None:
        return by_token(config, batch, turns, returns / within)
    whitened = ops.advantages.whiten(ahead, ahead.isfinite())
    return batch.replace(advantages=batch.scatter(whitened[turns.of]), returns=batch.scatter(returns[turns.of]))


def by_token(config: Config, batch: Batch, turns: Turns, earned: Float[Tensor, " turn"]) -> Batch:
    """GAE within each utterance, which ends with what its turn earned."""
    values = batch.require("values")[batch.parent[batch.actions], 0]
    paid = values.new_zeros(len(values)).index_put((turns.of.bincount().cumsum(0) - 1,), earned)
    how = {"discount": config.token_discount, "trace": config.token_lambda}
    advantages = ops.advantages.gae(paid, values, 0 * earned, turns.of, **how)
    whitened = ops.advantages.whiten(advantages, advantages.isfinite())
    return batch.replace(advantages=batch.scatter(whitened), returns=batch.scatter(advantages + values))


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    terms, low, high = ops.policy_terms.policy_terms(outputs, batch), 1 - config.clip_low, 1 + config.clip_high
    ratio = terms.ratio
    loss = ops.policy.clipped(ratio, terms.advantages, low=low, high=high)
    loss = terms.weighed(loss, cap=config.correction_cap)
    metrics = terms.metrics | ops.policy_terms.clipping(ratio, low=low, high=high) | {"loss/policy": Mean.of(loss)}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def critic_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    turns, said = ops.turns.turns(batch), batch.actions
    before, said = (turns.before, turns.last) if config.token_lambda is None else (batch.parent[said], said)
    values, old = outputs.values[before, 0], batch.require("values")[before, 0]
    returns = batch.require("returns")[said]
    loss = config.value_weight * ops.policy.clipped_value(values, old, returns, clip=config.clip_value)
    means = {"value": values, "return": returns, "error": (values - returns) ** 2}
    metrics = {f"critic/{name}": Mean.of(each) for name, each in means.items()} | {"loss/critic": Mean.of(loss)}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def explain(config: Config) -> str:
    gae = f"GAE over turns, discount {config.discount:g}, lambda {config.gae_lambda:g}"
    if config.token_lambda is not None or config.token_discount < 1:
        gae += f"; over tokens discount {config.token_discount:g}, lambda {config.token_lambda}"
    return f"maximise E[A] by ratios held in {1 - config.clip_low:g} to {1 + config.clip_high:g}; {gae}"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: Needs(columns=("sampler_logprobs", "rewards", "values")),
    estimate=estimate,
    losses={"policy": policy_loss, "critic": critic_loss},
    requires=lambda config, stage: [],
    explain=explain,
    heads=lambda config: ("value",),
)
