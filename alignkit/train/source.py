"""Where a stage's batches come from. Sources live on the first rank and hold no state but what a cursor can restore."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from alignkit.data.offline.example import Example
from alignkit.errors import DataError
from alignkit.rollout.collect import Collector, describe, trainable
from alignkit.rollout.items import pack_rollouts
from alignkit.rollout.play import Prompt
from alignkit.types.batch import Batch
from alignkit.types.rollout import Rollout
from alignkit.types.seeds import child


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A step's data. batch: None when nothing of it can be trained on. cursor: where the next step goes on."""

    batch: Batch | None
    cursor: int
    consumed: list[str]
    rollouts: list[Rollout] = field(default_factory=list)
    trained: list[Rollout] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)


class Source(Protocol):
    def next(self, cursor: int, version: int) -> Drawn:
        """The data of one step, starting at `cursor`; sampled data must stem from weights of `version`."""
        ...


Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Order(Generic[Row]):
    """The endless order of a stage's examples, a pure function of the seed: a cursor is the whole state of the stream.

    Each epoch is one permutation of all examples, drawn from (seed, epoch) alone, or the given order without `shuffle`.
    """

    examples: Sequence[Row]
    seed: int
    shuffle: bool

    def take(self, cursor: int, count: int) -> list[Row]:
        """Those at `cursor` to `cursor + count`, however the stream is cut; raises DataError where there are none."""
        size = len(self.examples)
        if not size:
            raise DataError("data: there are no tasks to draw from; wanted at least one row")
        taken: list[Row] = []
        while len(taken) < count:
            epoch, first = divmod(cursor + len(taken), size)
            taken += [self.examples[index] for index in self._epoch(epoch)[first : first + count - len(taken)]]
        return taken

    def _epoch(self, epoch: int) -> Any:
        size = len(self.examples)
        if not self.shuffle:
            return range(size)
        return np.random.Generator(np.random.Philox(key=child(self.seed, "order", epoch))).permutation(size)

    def epoch(self, cursor: int) -> float:
        return cursor / len(self.examples)


@dataclass(frozen=True, kw_only=True)
class RolloutSource:
    """Completions sampled by the engine and scored by the rewards. run: runs the collector's coroutines."""

    order: Order[Example]
    collector: Collector
    share_prefix: bool
    run: Callable = asyncio.run

    def next(self, cursor: int, version: int) -> Drawn:
        taken = cursor

        def draw_prompts(count: int) -> list[Prompt]:
            nonlocal taken
            examples = self.order.take(taken, count)
            prompts = [
                Prompt(task=e.task, ids=e.prompt, position=taken + i, completion=e.completion, opened=e.opened)
                for i, e in enumerate(examples)
            ]
            taken += count
            return prompts

        collected = self.run(self.collector.collect(draw_prompts))
        rollouts = trainable(collected.groups)
        metrics = describe(collected, self.collector.settings)
        metrics |= {"data/epoch": self.order.epoch(taken), "data/consumed": taken}
        return Drawn(
            batch=pack_rollouts(rollouts, version=version, share_prefix=self.share_prefix) if rollouts else None,
            cursor=taken,
            consumed=collected.consumed,
            rollouts=collected.everything,
            trained=rollouts,
            metrics=metrics,
        )
