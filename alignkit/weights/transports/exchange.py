"""Carries a plan out between the ranks of torch.distributed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from alignkit.errors import EngineError, LayoutError, first_line
from alignkit.types.layout import Box, Holder
from alignkit.weights.plan.plan import Plan, Step
from alignkit.weights.transports.held import Held
from alignkit.weights.transports.landing import Landing

LOOK_S = 1.0  # between looks whether a rank was lost


class Exchange:
    """Moves weights by one plan, as often as there are new ones. All ranks make it, and make its calls, together.

    ranks: which process of the plan each rank is. dtype: in which weights travel and land. store: where ranks leave
    word for one another, of each exchange its own (`torch.distributed.PrefixStore`). timeout_s: how long a rank waits
    for a peer.

    What one stage brings a process from a peer is one message, cast and packed by the sender. At most the messages of
    two stages, so of two buckets, are held beside the weights. Over gloo; messages to a peer go in the order in which
    it asks for them, so that a backend without tags would do.
    """

    def __init__(
        self,
        plan: Plan,
        ranks: Sequence[Holder],
        *,
        dtype: torch.dtype,
        store: torch.distributed.Store,
        timeout_s: float = 600.0,
    ):
        lost = set(plan.holders) - set(ranks)
        if lost:
            raise LayoutError(f"weights: {min(lost)} of the plan is no rank; name the rank of each process")
        self.rank = torch.distributed.get_rank()
        self._ranks, self._place = ranks, {holder: rank for rank, holder in enumerate(ranks)}
        self._steps = list(plan.steps(ranks[self.rank])) if ranks[self.rank] in plan.holders else []
        self._stages = 1 + int(plan.stage.max(initial=0))
        self._dtype, self._store, self._timeout_s = dtype, store, timeout_s
        self._group: Any = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._round, self._version = 0, -1

    def move(self, source: Held, landing: Landing, version: int) -> None:
        """Returns when every rank has all that it wants; `landing` is then of this version.

        Raises EngineError, naming the rank that was lost, in all others; what has come is then of no version, nobody
        may be told of it, and the exchange is closed.
        """
        if self._group is None:
            raise EngineError("weights: this exchange was closed by an error; start the run again")
        self._round, self._version = self._round + 1, version
        with landing.awaiting(version):
            try:
                sent: list[tuple[int, Any, Tensor]] = []
                for step in self._steps:
                    sent = self._do(step, source, landing.held, sent)
                self._wait(sent)
                self._agree()
            except BaseException:
                self._word(self.rank)
                self.close()
                raise

    def close(self) -> None:
        """Ends the connections; a peer that waits for this rank then hears of it at once."""
        group, self._group = self._group, None
        if group is not None:
            torch.distributed.destroy_process_group(group)

    def _do(self, step: Step, source: Held, target: Held, before: list[Any]) -> list[tuple[int, Any, Tensor]]:
        """One stage; waits for what comes and for what was sent in the stage before. What is sent in this one."""
        tag = step.bucket * self._stages + step.stage
        coming = [self._offer(peer, torch.distributed.irecv, self._empty(boxes), tag)
                  for peer, boxes in step.incoming.items()]  # fmt: skip
        sent = [self._offer(peer, torch.distributed.isend, self._packed(boxes, source, target), tag)
                for peer, boxes in step.outgoing.items()]  # fmt: skip
        for box in step.own:
            _view(box, target).copy_(_view(box, source))
        for boxes, message in zip(step.incoming.values(), coming, strict=True):
            self._wait([message])
            parts = message[2].split([box.numbers for box in boxes])
            for box, part in zip(boxes, parts, strict=True):
                _view(box, target).copy_(part.view(box.size))
        self._wait(before)
        return sent

    def _empty(self, boxes: Sequence[Box]) -> Tensor:
        return torch.empty(sum(box.numbers for box in boxes), dtype=self._dtype)

    def _packed(self, boxes: Sequence[Box], source: Held, target: Held) -> Tensor:
        message = self._empty(boxes)
        for box, part in zip(boxes, message.split([box.numbers for box in boxes]), strict=True):
            part.view(box.size).copy_(_view(box, source, target))
        return message

    def _offer(self, peer: Holder, how: Callable[..., Any], message: Tensor, tag: int) -> tuple[int, Any, Tensor]:
        rank = self._place[peer]
        try:
            return rank, how(message, rank, group=self._group, tag=tag), message
        except RuntimeError as error:
            raise self._lost(rank, error) from error

    def _wait(self, messages: Sequence[tuple[int, Any, Tensor]]) -> None:
        for rank, work, _ in messages:
            try:
                work.wait()
            except RuntimeError as error:
                raise self._lost(rank, error) from error

    def _agree(self) -> None:
        """Returns when all ranks have all; else none of them may use what it has."""
        deadline = time.monotonic() + self._timeout_s
        try:
            self._store.set(f"{self._key}/done/{self.rank}", "")
            if self._store.add(f"{self._key}/count", 1) == len(self._ranks):
                self._store.set(f"{self._key}/all", "")
            while not self._all_are_done():
                if self._store.check([f"{self._key}/lost"]):
                    raise self._lost(self.rank, None)
                if time.monotonic() > deadline:
                    ranks = range(len(self._ranks))
                    raise self._lost(next(r for r in ranks if not self._store.check([f"{self._key}/done/{r}"])), None)
        except torch.distributed.DistError as error:
            raise self._error("the store of all ranks", error) from error

    def _all_are_done(self) -> bool:
        """Looks for a while."""
        try:
            self._store.wait([f"{self._key}/all"], timedelta(seconds=LOOK_S))
        except torch.distributed.DistStoreError:  # not yet
            return False
        return True

    def _lost(self, rank: int, error: Exception | None) -> EngineError:
        """Names the rank that the first who noticed has named: others only see that their peers gave up."""
        first = self._word(rank)
        holder = self._ranks[first]
        return self._error(f"rank {first} (process {holder.process} on {holder.host})", error)

    def _error(self, who: str, error: Exception | None) -> EngineError:
        how = f" ({first_line(error)})" if error is not None else ""
        return EngineError(
            f"weights: {who} was lost while version {self._version} was on its way{how}; nobody is told of it, engines "
            "keep the version that they have; start the run again from its last checkpoint"
        )

    def _word(self, rank: int) -> int:
        """Leaves word that a rank was lost; the one that the first word names."""
        try:
            return int(self._store.compare_set(f"{self._key}/lost", "", str(rank)))
        except RuntimeError:  # the store went with its rank
            return rank

    @property
    def _key(self) -> str:
        return f"moves/{self._round}"


def _view(box: Box, *held: Held) -> Tensor:
    for one in held:
        found = one.view(box)
        if found is not None:
            return found
    raise LayoutError(f"weights: this process holds no tensor around {box}; give it the layout's boxes")
