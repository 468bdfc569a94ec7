"""A reward model from preference pairs (Bradley-Terry; 1706.03741, 2203.02155): the better answer shall score higher.

    L = mean over pairs -log sigmoid(r_w - r_l - margin) + centring (r_w + r_l)^2 + contrast C

r is the value head's number at the answer's last token. Only differences within a prompt are learnt; centring
(2312.09244) fixes the constant left free; ensembles, blends and thresholds need it. `members` are heads on one trunk,
each shown its own half of the pairs at twice the weight; the reward is their mean. C (goal-conditioned, 2407.13887) is
-log sigmoid(+-cos(state, goal) / temperature), + for the chosen side: projected states after a token and a later one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, PositiveInt

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Judgement, Loss, Outputs
from alignkit.types.metric import Mean
from alignkit.types.seeds import child

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch

WIDTH, TEMPERATURE = 16, 0.5  # of the states that are contrasted


class Config(AlgorithmConfig):
    centring: NonNegativeFloat = 0.01
    """Weight of the squared sum of a pair's two scores."""
    margin: Literal["none", "rewards"] = "none"
    """`rewards`: the chosen answer shall lead by as much as the data's chosen_reward exceeds its rejected_reward."""
    members: PositiveInt = 1
    """Heads of an ensemble on the same layers, each with its own first weights and its own half of the pairs."""
    contrast: NonNegativeFloat = 0.0
    """Weight of the term that draws states of chosen answers towards their later ones, and those of others away."""


def estimate(config: Config, batch: Batch) -> Batch:
    """Writes targets: a weight for each member, then the numbers of two of the sequence's actions, state and goal.

    They follow from token ids: a pair's weights from its own, the draw of states also from the batch's.
    """
    import torch

    if config.members == 1 and not config.contrast:
        return batch
    names = [child(0, *batch.tokens[batch.token_index([side])].tolist()) for side in range(batch.num_sequences)]
    shown = batch.reward.new_ones(batch.num_sequences, config.members)
    for pair in torch.stack(ops.preference.sides(batch), 1).tolist() if config.members > 1 else ():
        weights = [2.0 * (child(member, *(names[side] for side in pair)) % 2) for member in range(config.members)]
        shown[pair] = shown.new_tensor(weights)
    rest = int(batch.tokens[batch.segment >= 0].sum())
    drawn = ops.goals.draw_states(batch.actions_per_sequence() - 1, [child(name, rest) for name in names])
    return batch.replace(targets=torch.cat([shown, torch.stack(drawn, 1).to(shown)], 1))


def reward_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    chosen, rejected = ops.preference.sides(batch)
    scores = outputs.values[batch.last_token(), : config.members]
    margin = (batch.reward[chosen] - batch.reward[rejected])[:, None] if config.margin == "rewards" else 0.0
    each = ops.ranking.bradley_terry(scores[chosen], scores[rejected], margin=margin, centring=config.centring)
    if config.members > 1:
        each = each * batch.require("targets")[chosen, : config.members]
    loss, metrics = each.mean(-1), {}
    if config.contrast:
        contrast = _contrast(config, outputs, batch)
        pulled = (contrast[chosen] + contrast[rejected]) / 2
        loss, metrics = loss + config.contrast * pulled, {"loss/contrast": Mean.of(pulled)}
    metrics |= ops.preference.describe(batch, logprobs=None, rewards=scores.mean(-1))
    return Loss(total=loss.sum(), count=len(loss), metrics=metrics | {"loss/reward": Mean.of(loss)})


def _contrast(config: Config, outputs: Outputs, batch: Batch) -> Float[Tensor, " sequence"]:
    """Of each sequence."""
    actions, counts = batch.action_mask.nonzero().squeeze(-1), batch.actions_per_sequence()
    drawn = batch.require("targets")[:, config.members :].long() + (counts.cumsum(0) - counts)[:, None]
    states = outputs.values[actions[drawn], config.members : config.members + WIDTH]
    return ops.goals.goal_contrast(states[:, 0], states[:, 1], batch.side == 1, temperature=TEMPERATURE)


def judge(config: Config, outputs: Outputs, batch: Batch) -> Judgement:
    scores = outputs.values[batch.last_token(), : config.members]
    return Judgement(value=scores.mean(-1), members=scores if config.members > 1 else None)


def requires(config: Config, stage: Stage) -> list[str]:
    free = "members have no common zero, so that their spread would mean nothing: set centring above 0"
    return [free] * (config.members > 1 and not config.centring)


def explain(config: Config) -> str:
    margin = " - (chosen_reward - rejected_reward)" if config.margin == "rewards" else ""
    centring = f" + {config.centring:g} (chosen + rejected)^2" if config.centring else ""
    contrast = f" + {config.contrast:g} x contrast of states and goals" if config.contrast else ""
    members = f", mean over {config.members} heads, each on half of the pairs" if config.members > 1 else ""
    return f"minimise -log sigmoid(score of chosen - score of rejected{margin}){centring}{contrast}{members}"


def heads(config: Config) -> tuple[str, ...]:
    members = [f"reward {number}" for number in range(1, config.members + 1)] if config.members > 1 else ["reward"]
    return (*members, *(f"state {number}" for number in range(1, WIDTH + 1) if config.contrast))


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
