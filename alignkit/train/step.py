"""One optimizer step: micro-batches forward and backward, divided once by the count of the whole global minibatch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit.algorithms.base import Algorithm
from alignkit.errors import BatchError, HealthError
from alignkit.models.forward import Forward, Want
from alignkit.ops import kl, noise
from alignkit.parallel.group import Group
from alignkit.parallel.trainer import Trainer
from alignkit.train.split import micro_batches
from alignkit.types.batch import Batch
from alignkit.types.metric import Mean, Metric, combine
from alignkit.types.outputs import Loss, Outputs


@dataclass(kw_only=True)
class Step:
    """Updates one model with one algorithm. Every rank holds the same global batch and computes its own share.

    roles: the algorithm's losses that this model is trained on; a policy and a critic that share layers are one model.
    watch_noise: estimate the gradient's noise, where one process computes several micro-batches.
    """

    algorithm: Algorithm
    config: Any
    trainer: Trainer
    forward: Forward
    group: Group
    temperature: float
    max_tokens: int
    roles: tuple[str, ...] = ("policy",)
    watch_noise: bool = False

    def update(self, batch: Batch, sequences: Sequence[int], lr: float) -> tuple[dict[str, Metric], float]:
        """One optimizer step on some sequences of the global batch; metrics over all ranks, and the gradient norm.

        The result does not depend on how the minibatch is split into micro-batches and over ranks. Raises BatchError
        when a loss's count depends on the model's outputs, HealthError when the loss is not finite.
        """
        whole = batch.select(sequences)
        counts = {role: loss.count for role, loss in self._losses(self._blank(whole), whole).items()}
        empty = [role for role in self.roles if counts[role] == 0]
        if empty:
            problem = f"has nothing to train the {empty[0]} on: its loss is undefined"
            raise BatchError(f"a minibatch of {len(sequences)} sequences {problem}")
        self.trainer.model.train()
        seen, parts, total, first = dict.fromkeys(self.roles, 0.0), [], 0.0, None
        for plan in self._plan(batch, sequences):
            # a rank that sits a round out still runs it, times 0: sharded weights are gathered by all ranks together
            idle = not plan[self.group.rank]
            micro = batch.select(_mine(plan, self.group)).to(self.forward.device)
            outputs = self.forward(micro, temperature=self.temperature)
            losses = self._losses(outputs, micro)
            scaled = torch.stack([loss.total / counts[role] for role, loss in losses.items()]).sum()
            self.trainer.backward(scaled * (0.0 if idle else 1.0))
            if not idle:
                seen = {role: seen[role] + loss.count for role, loss in losses.items()}
                parts += [_distance(outputs, micro), *(loss.metrics for loss in losses.values())]
                total += float(scaled.detach())
            if self.watch_noise and first is None:
                first = self.trainer.gradient_norm() ** 2, dict(seen)
        self._check(counts, seen, total)
        norm = self.trainer.step(lr)
        if first is not None:
            parts.append(_noise(*first, norm, counts[self.roles[0]], self.roles[0]))
        return combine(self.group.gather(combine(parts))), norm

    def _losses(self, outputs: Outputs, batch: Batch) -> dict[str, Loss]:
        return {role: self.algorithm.losses[role](self.config, outputs, batch) for role in self.roles}

    def _blank(self, batch: Batch) -> Outputs:
        """Outputs that say nothing: a loss evaluated on them still knows its count."""
        zeros = torch.zeros(batch.num_tokens)
        values = torch.zeros(batch.num_tokens, len(self.algorithm.heads(self.config)))
        return Outputs(logprobs=zeros, entropy=zeros, normaliser=zeros, values=values, ref_kl=zeros)

    def _plan(self, batch: Batch, sequences: Sequence[int]) -> list[list[list[int]]]:
        unit = self.algorithm.unit
        plan = micro_batches(batch, sequences, max_tokens=self.max_tokens, world=self.group.world, unit=unit)
        # the plan begins with the longest sequences; which round comes first must not depend on length (see _noise)
        turn = int(batch.tokens.sum()) % len(plan) if self.watch_noise else 0
        return plan[turn:] + plan[:turn]

    def _check(self, counts: Mapping[str, float], seen: Mapping[str, float], loss: float) -> None:
        totals = self.group.sum(torch.tensor([*seen.values(), loss], dtype=torch.float64)).tolist()
        for role, total in zip(self.roles, totals, strict=False):
            if not math.isclose(total, counts[role], rel_tol=1e-9):
                units = f"{total} units with the model's outputs and {counts[role]} without"
                raise BatchError(f"the {role} loss counts {units}: a count must follow from the batch alone")
        if not math.isfinite(totals[-1]):
            raise HealthError(f"the loss is {totals[-1]}: stopped before the update, no weight was changed")

    @torch.no_grad()
    def read(self, batch: Batch, forward: Forward, name: Want) -> Tensor:
        """The logprobs or values of the global batch under `forward`'s model, each sequence read by one rank."""
        forward.model.eval()
        heads = (len(self.algorithm.heads(self.config)),) if name == "values" else ()
        result = torch.zeros(batch.num_tokens, *heads)
        times = torch.zeros_like(result)  # a prompt is read with each part of its block; all say the same
        for plan in self._plan(batch, range(batch.num_sequences)):
            mine = _mine(plan, self.group)
            said = getattr(forward(batch.select(mine).to(forward.device), temperature=self.temperature), name)
            if plan[self.group.rank]:
                index = batch.token_index(mine)
                result[index] += said.cpu()
                times[index] += 1
        return self.group.sum(result) / self.group.sum(times).clamp(min=1)


def _mine(plan: list[list[int]], group: Group) -> list[int]:
    """This rank's micro-batch of a round; a rank that sits it out computes the smallest one along."""
    return plan[group.rank] or min(filter(None, plan), key=len)


def _noise(square: float, seen: Mapping[str, float], norm: float, count: float, role: str) -> dict[str, Metric]:
    """Signal and noise of the gradient, from the first micro-batch's share of it and from the whole."""
    units = seen[role]
    if units == count:
        return {}
    signal, spread = noise.estimate(square * (count / units) ** 2, norm**2, units=units, all_units=count)
    return {"noise/signal": Mean(signal), "noise/variance": Mean(spread)}


def _distance(outputs: Outputs, batch: Batch) -> dict[str, Metric]:
    """How far the policy has moved since the update phase began: KL(old || now) per token, k3 on the old's samples."""
    if batch.old_logprobs is None or outputs.logprobs is None:
        return {}
    mask = batch.action_mask
    difference = kl.k3(batch.old_logprobs[mask] - outputs.logprobs.detach()[mask])
    return {"policy/kl_update": Mean(float(difference.sum()), difference.numel())}
