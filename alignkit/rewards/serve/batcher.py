"""Dynamic batching: what several callers ask at about the same time becomes one forward pass of a reward's model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from alignkit.errors import RewardError
from alignkit.rewards.base import as_score, unscorable
from alignkit.rewards.pool.shape import RolloutGroup
from alignkit.types.score import FaultKind, Score


@runtime_checkable
class BatchReward(Protocol):
    """A Reward that also scores the groups of many tasks at once: the form of rewards that hold a model.

    per_rollout: whether a score depends on its own completion only, so that answers may be cached one by one.
    """

    name: str
    per_rollout: bool

    def score_groups(self, groups: Sequence[RolloutGroup]) -> list[list[Score]]:
        """One Score per rollout, in order. Called in a thread, never twice at a time."""
        ...


@dataclass(eq=False)
class _Waiting:
    groups: Sequence[RolloutGroup]
    future: asyncio.Future[list[list[Score]]]

    @property
    def size(self) -> int:
        return sum(len(rollouts) for _, rollouts in self.groups)


class Batcher:
    """Scores through `reward.score_groups` in one thread.

    A batch is closed when it has `batch` completions or `wait_s` after its first one arrived; a caller's groups stay
    together. A batch that raises is scored again caller by caller, so that one bad input costs only its own scores.
    """

    def __init__(self, reward: BatchReward, *, batch: int, wait_s: float):
        self._reward, self._batch, self._wait_s = reward, batch, wait_s
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="alignkit-batches")
        self._task: asyncio.Task[None] | None = None
        self.batches = 0

    @property
    def per_rollout(self) -> bool:
        return self._reward.per_rollout

    async def score(self, groups: Sequence[RolloutGroup]) -> list[list[Score]]:
        """One Score per rollout, in order; failures are Faults."""
        waiting = _Waiting(groups, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await waiting.future

    def close(self) -> None:
        """Drops what waits and lets a batch in progress end."""
        if self._task is not None:
            self._task.cancel()
        for waiting in self._queue:
            waiting.future.cancel()
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            await self._fill()
            chosen = self._take()
            answers = await self._answer(chosen)
            for waiting, scores in zip(chosen, answers, strict=True):
                if not waiting.future.done():  # the caller may have left
                    waiting.future.set_result(scores)

    async def _fill(self) -> None:
        """Waits until the batch is full or its first entry has waited long enough."""
        end = asyncio.get_running_loop().time() + self._wait_s
        while sum(waiting.size for waiting in self._queue) < self._batch:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Waiting]:
        """At least one caller; more while their completions fit."""
        chosen: list[_Waiting] = []
        room = self._batch
        while self._queue and (not chosen or self._queue[0].size <= room):
            room -= self._queue[0].size
            chosen.append(self._queue.popleft())
        if self._queue:
            self._arrived.set()
        else:
            self._arrived.clear()
        return chosen

    async def _answer(self, chosen: list[_Waiting]) -> list[list[list[Score]]]:
        merged = [group for waiting in chosen for group in waiting.groups]
        scores = await self._attempt(merged)
        if isinstance(scores, Exception) and len(chosen) > 1:
            alone = [await self._attempt(waiting.groups) for waiting in chosen]
            return [self._scores(result, w.groups) for result, w in zip(alone, chosen, strict=True)]
        flat = iter(self._scores(scores, merged))
        return [[next(flat) for _ in waiting.groups] for waiting in chosen]

    async def _attempt(self, groups: Sequence[RolloutGroup]) -> list[list[Score]] | Exception:
        self.batches += 1
        try:
            scores = await asyncio.get_running_loop().run_in_executor(self._thread, self._reward.score_groups, groups)
            got, wanted = [len(group) for group in scores], [len(rollouts) for _, rollouts in groups]
        except Exception as error:  # whatever a model raises, callers get a fault
            return error
        return scores if got == wanted else RewardError(f"{got} scores for groups of {wanted}")

    def _scores(self, result: list[list[Score]] | Exception, groups: Sequence[RolloutGroup]) -> list[list[Score]]:
        name = self._reward.name
        if not isinstance(result, Exception):
            return [[as_score(score, where=name) for score in group] for group in result]
        kind = FaultKind.CONTRACT if isinstance(result, RewardError) else FaultKind.CRASH
        message = " ".join(f"{type(result).__name__}: {result}".split())[:300]
        return [[unscorable(kind, name, message) for _ in rollouts] for _, rollouts in groups]
