"""A critic by table, with which a tabular problem's values are fitted exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignkit.types.batch import Batch
from alignkit.types.outputs import Outputs


class Table:
    """A critic that keeps numbers for every prefix, and its slow copy."""

    def __init__(self, batch: Batch, heads: int = 4):
        paths = [self._path(batch, index) for index in range(batch.num_tokens)]
        known = sorted(set(paths))
        self.index = torch.tensor([known.index(path) for path in paths])
        self.numbers = torch.zeros(len(known), heads, requires_grad=True)
        self.slow = torch.zeros(len(known), heads)
        self.known = known

    def _path(self, batch: Batch, index: int) -> tuple[int, ...]:
        before = int(batch.parent[index])
        return (*(self._path(batch, before) if before >= 0 else ()), int(batch.tokens[index]))

    def at(self, *tokens: int) -> Tensor:
        return self.numbers.detach()[self.known.index(tokens)]

    def fit(self, algorithm, settings, batch: Batch) -> Batch:
        """Runs TD until it stands still, which it must; returns the batch with the last targets."""
        for _ in range(1500):
            columns = {"values": self.numbers.detach()[self.index], "target_values": self.slow[self.index]}
            batch = algorithm.estimate(settings, batch.replace(**columns))
            loss = algorithm.critic_loss(settings, Outputs(values=self.numbers[self.index], entropy=None), batch)
            (gradient,) = torch.autograd.grad(loss.total / loss.count, self.numbers)
            with torch.no_grad():
                self.numbers -= 0.5 * gradient
            apart = (self.numbers.detach() - self.slow).abs().max()
            self.slow.lerp_(self.numbers.detach(), settings.target_rate)
            if apart < 1e-5 and gradient.abs().max() < 1e-5:
                break
        else:
            pytest.fail(f"after 1500 steps the slow critic is still {apart} behind")
        return algorithm.estimate(settings, batch.replace(values=self.numbers.detach()[self.index]))
