"""One optimizer step: micro-batches forward and backward, divided once by the count of the whole global minibatch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from alignkit.algorithms.base import Algorithm, Outputs
from alignkit.errors import BatchError, HealthError
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.parallel.trainer import Trainer
from alignkit.train.split import micro_batches
from alignkit.types.batch import Batch
from alignkit.types.metric import Metric, combine


@dataclass(kw_only=True)
class Step:
    """Updates one model with one algorithm. Every rank holds the same global batch and computes its own share."""

    algorithm: Algorithm
    config: Any
    trainer: Trainer
    forward: Forward
    group: Group
    temperature: float
    max_tokens: int

    def update(self, batch: Batch, sequences: Sequence[int], lr: float) -> tuple[dict[str, Metric], float]:
        """One optimizer step on some sequences of the global batch; metrics over all ranks, and the gradient norm.

        The result does not depend on how the minibatch is split into micro-batches and over ranks. Raises BatchError
        when the loss's count depends on the model's outputs, HealthError when the loss is not finite.
        """
        loss_function = self.algorithm.losses["policy"]
        whole = batch.select(sequences)
        count = loss_function(self.config, _blank(whole), whole).count
        if count == 0:
            raise BatchError(f"a minibatch of {len(sequences)} sequences has no trained token: its loss is undefined")
        self.trainer.model.train()
        seen, parts, losses = 0.0, [], []
        for plan in micro_batches(batch, sequences, max_tokens=self.max_tokens, world=self.group.world):
            # a rank that sits a round out still runs it, times 0: sharded weights are gathered by all ranks together
            idle = not plan[self.group.rank]
            micro = batch.select(plan[self.group.rank] or [sequences[0]]).to(self.forward.device)
            loss = loss_function(self.config, self.forward(micro, temperature=self.temperature), micro)
            self.trainer.backward(loss.total * (0.0 if idle else 1 / count))
            if not idle:
                seen += loss.count
                parts.append(loss.metrics)
                losses.append(float(loss.total.detach()))
        self._check(count, seen, sum(losses))
        norm = self.trainer.step(lr)
        return combine(self.group.gather(combine(parts))), norm

    def _check(self, count: float, seen: float, loss: float) -> None:
        totals = self.group.sum(torch.tensor([seen, loss], dtype=torch.float64))
        if not math.isclose(float(totals[0]), count, rel_tol=1e-9):
            counts = f"{float(totals[0])} units with the model's outputs and {count} without"
            raise BatchError(f"the loss counts {counts}: a count must follow from the batch alone")
        if not math.isfinite(float(totals[1])):
            raise HealthError(f"the loss is {float(totals[1])}: stopped before the update, no weight was changed")

    @torch.no_grad()
    def logprobs(self, batch: Batch, forward: Forward) -> Float[Tensor, " token"]:
        """Log-probs of all action tokens of the global batch under `forward`'s model, each computed by one rank."""
        forward.model.eval()
        result = torch.zeros(batch.num_tokens)
        everything = range(batch.num_sequences)
        for plan in micro_batches(batch, everything, max_tokens=self.max_tokens, world=self.group.world):
            mine = plan[self.group.rank]
            micro = forward(batch.select(mine or [0]).to(forward.device), temperature=self.temperature)
            if mine:
                index = batch.token_index(mine)
                result[index] = micro.logprobs.cpu()
        return self.group.sum(result)


def _blank(batch: Batch) -> Outputs:
    """Outputs that say nothing: a loss evaluated on them still knows its count."""
    zeros = torch.zeros(batch.num_tokens)
    return Outputs(logprobs=zeros, entropy=zeros)
