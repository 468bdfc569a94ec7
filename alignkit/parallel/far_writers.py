"""Ranks of several hosts as they fill the memory of the engine's host: each sends the first rank its own pieces."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import torch
from torch.distributed import PrefixStore
from torch.distributed.distributed_c10d import _get_default_store

from alignkit.errors import EngineError, SyncError, first_line
from alignkit.models.weights import Part
from alignkit.parallel.group import Group
from alignkit.types.layout import Box, Holder, Layout
from alignkit.types.layout import Part as Lies
from alignkit.weights.digest import digest_of_range
from alignkit.weights.host_memory import HostMemory, Kind, Written, check_cover
from alignkit.weights.piece import Piece
from alignkit.weights.plan.flat_range import flat_range
from alignkit.weights.plan.plan import plan
from alignkit.weights.shared_weights import Table
from alignkit.weights.transports.exchange import Exchange
from alignkit.weights.transports.held import Held, shard_views
from alignkit.weights.transports.landing import Landing

Ranges = tuple[tuple[tuple[str, int, int], ...], ...]
"""Of each rank: (weight, begin, end)."""


@dataclass
class FarWriters:
    """tables: of the memory, which the first rank holds. holders: the ranks. name: no other of this run has it.

    Beside its own weights a rank holds its pieces, cast to the engine's dtype, and messages on their way: nothing is
    whole but in that memory.
    """

    group: Group
    memory: HostMemory | None
    tables: dict[Kind, Table]
    holders: Sequence[Holder]
    name: str
    _exchanges: dict[tuple[Kind, Ranges], Exchange] = field(default_factory=dict, init=False)

    @classmethod
    def open(cls, group: Group, memory: HostMemory | None) -> FarWriters | None:
        """memory: the first rank's, of others None. All ranks call it; None when there is none."""
        tables = group.from_first({"adapter": memory.adapter, "base": memory.base} if memory else None)
        if tables is None:
            return None
        hosts = group.gather(socket.gethostname())
        name = group.from_first(uuid4().hex)
        return cls(group, memory, tables, [Holder(host, rank) for rank, host in enumerate(hosts)], name)

    def write(self, parts: Sequence[Part], own: Callable[[Part], Iterator[Piece]], *, version: int) -> None:
        """Every rank sends its own pieces of these parts; afterwards they lie in the memory whole, and are proven to.

        All ranks call it, and all raise EngineError together when one of them failed, or a number is not there or not
        what its rank has; one that was lost on the way is named. The memory counts as torn until the proof.
        """
        try:
            for part in parts:
                self._write("adapter" if part == "adapter" else "base", own(part), version)
        except RuntimeError as error:  # of torch.distributed, outside of the exchange
            if isinstance(error, EngineError):
                raise
            raise SyncError(
                f"weight sync to version {version}: a rank was lost ({first_line(error)}); no engine was told, each "
                "still holds the version before; go on from the last checkpoint with --resume"
            ) from error

    def close(self) -> None:
        """Ends the connections for weights; the memory stays."""
        for exchange in self._exchanges.values():
            exchange.close()

    def _write(self, kind: Kind, pieces: Iterator[Piece], version: int) -> None:
        if self.memory is not None:
            self.memory.begin([kind])
        views, written, problem = self._taken(kind, pieces)
        said = self.group.gather((written, problem))
        raise_first([problem for _, problem in said], version)
        ranks = [written for written, _ in said]
        check_cover(self.tables[kind], ranks)
        tensors = self.memory.tensors(kind) if self.memory is not None else {}
        landing = Landing({_whole(name, tuple(tensor.shape)): tensor for name, tensor in tensors.items()})
        self._exchange(kind, ranks).move(Held(views), landing, version)
        odd = [self.memory.differing(kind, each) if self.memory is not None else [] for each in ranks]
        found = self.group.from_first([f"{names[0]} came otherwise than it was sent" if names else "" for names in odd])
        raise_first(found, version)
        if self.memory is not None:
            self.memory.done([kind])

    def _taken(self, kind: Kind, pieces: Iterator[Piece]) -> tuple[dict[Box, torch.Tensor], list[Written], str]:
        """This rank's pieces as boxes, what they are, and what is wrong with them."""
        table = self.tables[kind]
        shapes, dtype = {name: shape for name, shape, _ in table.entries}, getattr(torch, table.dtype)
        views: dict[Box, torch.Tensor] = {}
        written = []
        for piece in pieces:
            if piece.name not in shapes:
                deque(pieces, maxlen=0)  # the others may be waiting for this rank to gather
                return {}, [], f"{piece.name} has no place in the engine's memory"
            values = piece.values.detach().to("cpu", dtype, copy=True)
            end = piece.begin + len(values)
            views |= shard_views(piece.name, shapes[piece.name], piece.begin, values)
            written.append(Written(piece.name, piece.begin, end, digest_of_range(values, piece.begin) % 2**64))
        return views, written, ""

    def _exchange(self, kind: Kind, ranks: Sequence[Sequence[Written]]) -> Exchange:
        """That of these ranges: the same each time, unless the model is another."""
        ranges = tuple(tuple((each.name, each.begin, each.end) for each in written) for written in ranks)
        if (kind, ranges) not in self._exchanges:
            table, first = self.tables[kind], self.holders[0]
            shapes = {name: shape for name, shape, _ in table.entries}
            source = [
                Lies(box, holder)
                for holder, owned in zip(self.holders, ranges, strict=True)
                for name, begin, end in owned
                for box in flat_range(name, shapes[name], begin, end)
            ]
            target = [Lies(_whole(name, shape), first) for name, shape in shapes.items()]
            store = PrefixStore(f"{self.name}/{len(self._exchanges)}", _get_default_store())
            self._exchanges[kind, ranges] = Exchange(
                plan(Layout.of(shapes, source), Layout.of(shapes, target)),
                self.holders,
                dtype=getattr(torch, table.dtype),
                store=store,
            )
        return self._exchanges[kind, ranges]


def raise_first(problems: Sequence[str], version: int) -> None:
    """Raises EngineError for the first rank that has one; problems: of all ranks, "" where there is none."""
    for rank, problem in enumerate(problems):
        if problem:
            raise EngineError(f"weight sync to version {version}: rank {rank}: {problem}; no engine was told")


def _whole(name: str, shape: tuple[int, ...]) -> Box:
    return Box(name, (0,) * len(shape), shape)
