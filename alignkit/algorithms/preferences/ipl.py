"""IPL (arXiv 2305.15363): the logits are a Q-function, and the rewards that they imply explain the preferences.

    L = mean over pairs of -log sigmoid(sum_t r_wt - sum_t r_lt) + weight mean_t r_t^2 + nll_weight (-mean_t l_wt)
    r_t = scale (Q_t - discount V_{t+1}),   Q_t = logit of token t,   V_t = logsumexp of all logits,   0 after the end

So Q_t - V_t = l_t. Without a discount the rewards of an answer add up to its log-prob and a V of the prompt, which both
sides share. The mean of squares is over the tokens of both sides; it and the best policy for small rewards leave the
data, which the likelihood prevents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(AlgorithmConfig):
    scale: PositiveFloat = 1.0
    """Reward of one nat: the temperature at which the policy is the best one for its rewards."""
    discount: Fraction = 1.0
    """Of the next token's value."""
    weight: NonNegativeFloat = 0.5
    """Of the mean squared reward, which decides between all the rewards that explain the preferences."""
    nll_weight: NonNegativeFloat = 1.0
    """Weight of the chosen answers' negative log-likelihood per token; the paper's weighted imitation of the data."""


def estimate(config: Config, batch: Batch) -> Batch:
    return batch


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    rewards = config.scale * ops.preference.implied_rewards(
        outputs.logprobs, outputs.normaliser, batch, discount=config.discount
    )
    returns = ops.preference.pool(rewards, batch, "sum")
    squares, tokens = ops.preference.pool(rewards**2, batch, "sum"), batch.actions_per_sequence()
    square = (squares[chosen] + squares[rejected]) / (tokens[chosen] + tokens[rejected])
    nll = -ops.preference.pool(outputs.logprobs, batch, "mean")[chosen]
    loss = ops.preference.logistic(returns[chosen] - returns[rejected]) + config.weight * square
    loss = loss + config.nll_weight * nll
    metrics = ops.preference.describe(batch, logprobs=outputs.logprobs, rewards=returns)
    means = {"loss/policy": loss, "loss/nll": nll, "pairs/reward_square": square}
    means |= {"policy/entropy": outputs.entropy[batch.action_mask]}
    metrics |= {name: Mean.of(each) for name, each in means.items()}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    cut = "an answer that is cut has no end and no next value: set data.long_completions to filter or error"
    return [cut] * (stage.data.long_completions == "truncate")


def explain(config: Config) -> str:
    reward = f"r = {config.scale:g} x (logit - {config.discount:g} x logsumexp of the next token's logits)"
    nll = f" + {config.nll_weight:g} x -log p(chosen) per token" if config.nll_weight else ""
    return f"minimise -log sigmoid(sum r(chosen) - sum r(rejected)) + {config.weight:g} x mean r^2{nll}, {reward}"


ALGORITHM = Algorithm(
    config=Config,
    source="paired_preference",
    estimate=estimate,
    losses={"policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="group",
)
