"""PPO under constraints with a critic for each cost (PPO-Lagrangian of Safe RLHF, arXiv 2310.12773).

    A = (A_r - sum_k m_k A_k) / (1 + sum_k m_k),   A_k = GAE of c_kt by a value head of its own,   m from `constraints`
    r_t = -kl_weight (l_old_t - l_ref_t) + [score at the last token],   c_kt = +kl_weight (same) + [cost k there]

With the KL in all of them its weight in A is kl_weight whatever the multipliers are. `ppo` under the same constraints
has one critic of the mixed reward, which changes whenever a multiplier moves; here no critic's target does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignkit import ops
from alignkit.algorithms.base import Algorithm, Loss, Outputs
from alignkit.algorithms.rollouts import ppo
from alignkit.types.metric import Mean
from alignkit.types.needs import Needs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(ppo.Config):
    costs: tuple[str, ...] = ()
    """The costs with a critic of their own: what all `constraints` of the stage are `of`, in any order."""


def estimate(config: Config, batch: Batch) -> Batch:
    """Writes the mixed advantages and, as `returns`, a column for each head."""
    import torch

    from alignkit.types.batch import COST, MULTIPLIER

    mask, values = batch.action_mask, batch.require("values")
    everything, before = mask[mask], values[batch.parent[mask]]
    final = values[batch.last_token()] * batch.truncated[:, None] * config.bootstrap_truncated
    paid = [ops.advantages.paid(batch, kl_weight=config.kl_weight, missing_eos_penalty=config.missing_eos_penalty)]
    if config.whiten_rewards:
        paid[0] = ops.advantages.whiten(paid[0], everything, keep_mean=True)
    for name in config.costs:  # paid as a reward of -cost, so that the KL comes out as +cost
        costly = batch.replace(reward=-batch.channels[COST + name], rewards=None)
        paid.append(-ops.advantages.paid(costly, kl_weight=config.kl_weight))
    how = {"segment": batch.segment[mask], "discount": config.discount, "trace": config.gae_lambda}
    parts = [ops.advantages.gae(each, before[:, k], final[:, k], **how) for k, each in enumerate(paid)]
    returns = torch.stack([batch.scatter(part + before[:, k]) for k, part in enumerate(parts)], dim=-1)
    advantages = parts[0]
    if config.costs:
        weights = torch.stack([batch.channels[MULTIPLIER + name][0] for name in config.costs])
        advantages = ops.constraint.mixed(advantages, torch.stack(parts[1:]), weights)
    advantages = ops.advantages.whiten(advantages, everything) if config.whiten_advantages else advantages
    return batch.replace(advantages=batch.scatter(advantages), returns=returns)


def critic_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    before, returns = batch.parent[batch.action_mask], batch.require("returns")[batch.action_mask]
    heads = returns.shape[-1]
    values, old = outputs.values[before, :heads], batch.require("values")[before, :heads]
    loss = config.value_weight * ops.policy.clipped_value(values, old, returns, clip=config.clip_value).sum(1)
    means = {"value": values[:, 0], "return": returns[:, 0], "error": _error(values[:, :1], returns[:, :1])}
    if heads > 1:
        means |= {"cost": values[:, 1:].mean(1), "cost_error": _error(values[:, 1:], returns[:, 1:])}
    metrics = {f"critic/{name}": Mean.of(each) for name, each in means.items()} | {"loss/critic": Mean.of(loss)}
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics)


def _error(values: Float[Tensor, "n head"], returns: Float[Tensor, "n head"]) -> Float[Tensor, " n"]:
    return ((values - returns) ** 2).mean(1)


def requires(config: Config, stage: Stage) -> list[str]:
    limited = sorted(constraint.of for constraint in stage.constraints)
    wanted = f"costs and constraints disagree: set algorithm.costs to {limited}"
    none = "ppo_lagrangian keeps constraints and there are none: add `constraints`, or take ppo"
    sentences = [none] if not limited else [wanted] * (sorted(config.costs) != limited)
    return sentences + ppo.requires(config, stage)


def explain(config: Config) -> str:
    names = ", ".join(config.costs)
    return f"{ppo.explain(config)}; A less multiplier x A of {names or 'no cost'}, each with a critic of its own"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: ppo.ALGORITHM.needs(config) | Needs(columns=("costs",) if config.costs else ()),
    estimate=estimate,
    losses={"policy": ppo.policy_loss, "critic": critic_loss},
    requires=requires,
    explain=explain,
    heads=lambda config: ("value", *config.costs),
    controls=ppo.ALGORITHM.controls,
    adapt=ppo.ALGORITHM.adapt,
)
