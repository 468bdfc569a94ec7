"""Limits on mean costs, kept by multipliers that adapt: whatever the algorithm, it sees the mixed reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from alignkit.errors import BatchError
from alignkit.ops import groups
from alignkit.ops.constraint import mixed, next_multiplier
from alignkit.recipe.schema import Constraint
from alignkit.train.hooks.hook import Hook, HookMemory, Metrics
from alignkit.types.batch import COST, MULTIPLIER, Batch
from alignkit.types.needs import Needs


@dataclass(frozen=True, kw_only=True)
class Constraints(Hook):
    """A stage's constraints. Their memory is the multiplier and the recent mean costs of each.

    mix: pay the mixed reward; otherwise the algorithm weighs the costs itself and finds them among the channels.
    """

    name: ClassVar[str] = "constraints"
    settings: Sequence[Constraint]
    mix: bool = True

    @property
    def needs(self) -> Needs:
        return reduce(or_, (each.needs for each in self.settings), Needs())

    def begin(self) -> HookMemory:
        return {each.of: {"multiplier": each.multiplier, "costs": []} for each in self.settings}

    def before_estimate(self, batch: Batch, memory: HookMemory, step: int) -> tuple[Batch, HookMemory, Metrics]:
        """(batch with mixed rewards or costs, the memory after this step, metrics).

        The multipliers move first, by the mean cost of the last steps, this one included. Every rank has the whole
        batch, so all compute the same. Raises BatchError for a cost that some sequence has no value of.
        """
        costs, first = {each.of: self.cost(batch, each.of) for each in self.settings}, groups.rollouts(batch).first
        after = {
            each.of: self._moved(each, memory[each.of], float(costs[each.of][first].mean()), step)
            for each in self.settings
        }
        multipliers = torch.tensor([after[each.of]["multiplier"] for each in self.settings])
        metrics = {
            f"constraint/cost/{name}": values[-1] for name, values in ((n, a["costs"]) for n, a in after.items())
        }
        metrics |= {f"constraint/multiplier/{name}": each["multiplier"] for name, each in after.items()}
        metrics["constraint/saturated"] = sum(
            after[each.of]["multiplier"] >= each.cap * 0.999 for each in self.settings
        )
        if not self.mix:
            channels = {COST + name: cost for name, cost in costs.items()}
            channels |= {MULTIPLIER + n: m.expand(batch.num_sequences) for n, m in zip(costs, multipliers, strict=True)}
            return batch.replace(channels=batch.channels | channels), after, metrics
        reward = mixed(batch.reward, torch.stack(list(costs.values())), multipliers)
        return _paid(batch, reward, scale=1 / (1 + float(multipliers.sum()))), after, metrics

    def cost(self, batch: Batch, of: str) -> Float[Tensor, " sequence"]:
        """The cost of each sequence's rollout: its length in action tokens, whether it was cut, its KL, or a reward's
        part."""
        rollouts = groups.rollouts(batch)
        if of == "length":
            return rollouts.sums(batch.actions_per_sequence().float())[rollouts.of]
        if of == "truncated":
            return batch.truncated.float()  # the same for all sequences of a rollout
        if of == "kl":
            gap = batch.sum_per_sequence(batch.require("old_logprobs") - batch.require("ref_logprobs"))
            return rollouts.sums(gap)[rollouts.of]
        if of not in batch.channels:
            known = ", ".join(["length", "truncated", "kl", *batch.channels])
            raise BatchError(f"constraints: no cost is called '{of}'; the batch has {known}")
        values = batch.channels[of]
        if not bool(torch.isfinite(values).all()):
            raise BatchError(f"constraints: '{of}' has no value for {int((~torch.isfinite(values)).sum())} sequences")
        return values

    def _moved(self, each: Constraint, before: HookMemory, cost: float, step: int) -> dict[str, Any]:
        costs = [*before["costs"], cost][-each.window :]
        excess = sum(costs) / len(costs) - each.limit
        multiplier = before["multiplier"]
        if step >= each.delay:
            multiplier = next_multiplier(multiplier, excess, lr=each.lr, cap=each.cap)
        return {"multiplier": multiplier, "costs": costs}


def _paid(batch: Batch, reward: Float[Tensor, " sequence"], *, scale: float) -> Batch:
    """The batch with these rewards; where rewards lie on tokens, the costs are paid after the last action."""
    if batch.rewards is None:
        return batch.replace(reward=reward)
    last = batch.last_action()
    change = (reward - batch.reward * scale)[last >= 0]
    return batch.replace(reward=reward, rewards=(batch.rewards * scale).index_add(0, last[last >= 0], change))
