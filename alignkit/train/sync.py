"""Weight sync with proof: the engine never samples before it has been shown to compute what the trainer computes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch

from alignkit.engines.canary import check
from alignkit.engines.engine import Engine, Part, TakesPieces
from alignkit.models.forward import Forward
from alignkit.models.weights import Part as Weights
from alignkit.parallel.far_writers import FarWriters
from alignkit.parallel.group import Group
from alignkit.parallel.trainer import Trainer
from alignkit.parallel.writers import Writers, open_writers
from alignkit.types.batch import pack
from alignkit.types.item import Item


@dataclass(kw_only=True)
class Sync:
    """Keeps the engine (on the first rank; None elsewhere) at the trainer's version. Called by every rank together.

    probe: fixed sequences of token ids. tolerance: largest mean |log-prob difference| on them. sleeps: it gives its
    memory to the trainer that trains. apart: an adapter travels by itself, its base only when the engine has it not.
    version: of the weights that it holds, -1: none. metrics: of the last push.
    """

    engine: Engine | None
    group: Group
    probe: Sequence[Sequence[int]]
    tolerance: float
    sleeps: bool = False
    apart: bool = False
    version: int = -1
    metrics: dict[str, Any] = field(default_factory=dict)
    _asleep: bool = field(default=False, init=False)
    _has_base: bool = field(default=False, init=False)
    _writers: Writers | FarWriters | None = field(default=None, init=False)
    _opened: bool = field(default=False, init=False)

    def __call__(self, version: int, trainer: Trainer, forward: Forward) -> dict[str, Any]:
        """Pushes the weights unless the engine holds them already; raises SyncError when the canary disagrees.

        The metrics speak of the weights that the engine holds, whenever they were pushed: a resumed run pushes again
        what the unbroken one pushed steps ago, and both must say the same.
        """
        if version == self.version:
            return dict(self.metrics)
        self._wake("weights")
        self._push(version, trainer)
        # after they were gathered: what ZeRO-3 has fetched ahead for another forward could not be gathered now
        expected = self._trainer_logprobs(forward)  # and before the cache: it needs memory, too
        self._wake("cache")
        if self.engine is not None:
            scored = asyncio.run(self.engine.score(self.probe))
            report = check(scored, expected, tolerance=self.tolerance, version=version)
            self.metrics = {"sync/canary_gap": report.mean_gap, "sync/policy_version": version}
        self.version, self._asleep, self._has_base = version, False, self.apart
        return dict(self.metrics)

    def rest(self) -> None:
        """Nobody samples before the next call: the trainer gets the memory. Sleeping weights are gone."""
        if self.sleeps and not self._asleep:
            self.version, self._asleep, self._has_base = -1, True, False
            if self.engine is not None:
                self.engine.sleep()

    def _push(self, version: int, trainer: Trainer) -> None:
        """Every rank brings its own pieces into the memory of the engine's host; where there is none, they gather."""
        if not self._opened and self.group.world > 1:
            memory = self.engine.memory if isinstance(self.engine, TakesPieces) else None
            self._writers, self._opened = open_writers(self.group, memory), True
        parts: list[Weights] = ["adapter"] if self._has_base else ["base", "adapter"] if self.apart else ["merged"]
        if self._writers is not None:
            self._writers.write(parts, trainer.pieces, version=version)
            if isinstance(self.engine, TakesPieces):
                self.engine.load(version=version)
            return
        weights = chain.from_iterable(map(trainer.weights, parts))
        if self.engine is not None:
            self.engine.update(weights, version=version)
        deque(weights, maxlen=0)  # the other ranks help to gather sharded weights

    def _wake(self, part: Part) -> None:
        if self._asleep and self.engine is not None:
            torch.cuda.empty_cache()  # what the trainer has freed it still holds; does nothing without a GPU
            self.engine.wake(part)

    @torch.no_grad()
    def _trainer_logprobs(self, forward: Forward) -> list[list[float]]:
        """The trainer's log-prob of every probe token after the first; every rank computes all of them."""
        items = [Item(prompt_ids=ids[:1], completion_ids=ids[1:], group=i) for i, ids in enumerate(self.probe)]
        batch = pack(items)
        forward.model.eval()
        forward.verify(batch, temperature=1.0)
        logprobs = forward(batch.to(forward.device), temperature=1.0).logprobs.cpu()
        return [logprobs[(batch.segment == i)].tolist() for i in range(len(items))]
