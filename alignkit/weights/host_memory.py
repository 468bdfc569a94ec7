"""A policy's weights in the memory of one host: every process there that knows the place may write its pieces."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from alignkit.errors import EngineError
from alignkit.weights.digest import block_size, digest_of_range
from alignkit.weights.piece import Piece
from alignkit.weights.shared_weights import Table, map_tensors, pin

Kind = Literal["adapter", "base"]
"""Of the two tables: an adapter's matrices that travel by themselves, and all else."""


@dataclass(frozen=True)
class Place:
    """Where a process of the same host and user finds the memory: behind a descriptor of its owner's.

    kernel, file: which the host runs, and which it calls this memory, so that another's is not taken for it.
    """

    owner: int
    descriptor: int
    kernel: str
    file: tuple[int, int]
    adapter: Table
    base: Table

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self.owner}/fd/{self.descriptor}")


@dataclass(frozen=True, slots=True)
class Written:
    """The numbers `begin` to `end` of a weight, and what they add to its digest (modulo 2^64)."""

    name: str
    begin: int
    end: int
    digest: int


class HostMemory:
    """Whole tensors side by side, in anonymous memory, as two tables say.

    torn: tables of which not every number is of one version: nothing may be loaded from these. fresh: tables written
    whole since an engine was last told. writes: how often it was begun to write to it. All are kept by whoever tells
    engines.
    """

    def __init__(self, descriptor: int, adapter: Table, base: Table):
        self.descriptor, self.adapter, self.base = descriptor, adapter, base
        self.torn: set[Kind] = {"base", "adapter"} if adapter.entries else {"base"}
        self.fresh: set[Kind] = set()
        self.writes = 0
        self._mapped: dict[Kind, dict[str, Tensor]] = {}
        self._closed = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def opened(cls, place: Place) -> HostMemory | None:
        """Another process's; None where that cannot be reached, as from another host."""
        if place.kernel != _kernel():
            return None
        try:
            descriptor = os.open(place.path, os.O_RDWR)
        except OSError:  # another user's, or behind another namespace of processes
            return None
        memory = cls(descriptor, place.adapter, place.base)
        if memory.place.file == place.file:
            return memory
        memory.close()
        return None

    @property
    def place(self) -> Place:
        stat = os.fstat(self.descriptor)
        return Place(os.getpid(), self.descriptor, _kernel(), (stat.st_dev, stat.st_ino), self.adapter, self.base)

    def table(self, kind: Kind) -> Table:
        return self.adapter if kind == "adapter" else self.base

    def tensors(self, kind: Kind) -> dict[str, Tensor]:
        """Views of a table's tensors, in memory that a card may copy from and to directly."""
        if kind not in self._mapped:
            table = self.table(kind)
            self._mapped[kind] = map_tensors(self.descriptor, table) if table.entries else {}
            if table.entries and torch.cuda.is_available():
                pin(self._mapped[kind], table)
        return self._mapped[kind]

    def begin(self, kinds: Iterable[Kind]) -> None:
        """From now on these tables are written."""
        self.writes += 1
        self.torn |= set(kinds)

    def done(self, kinds: Iterable[Kind]) -> None:
        """All that they hold is of one version again."""
        self.torn -= set(kinds)
        self.fresh |= set(kinds)

    def write(self, kind: Kind, pieces: Iterable[Piece]) -> list[Written]:
        """Writes pieces in the table's dtype; raises EngineError for one that has no place there."""
        tensors = self.tensors(kind)
        written = []
        for piece in pieces:
            end = piece.begin + len(piece.values)
            if piece.name not in tensors:
                raise EngineError(f"weights: {piece.name} has no place in the engine's memory")
            target = tensors[piece.name].view(-1)
            if end > len(target):
                raise EngineError(
                    f"weights: {piece.name} comes up to its number {end}; in the engine's memory it has {len(target)}"
                )
            written.append(Written(piece.name, piece.begin, end, _put(piece, target[piece.begin : end])))
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # with the copies into the memory
        return written

    def differing(self, kind: Kind, written: Iterable[Written]) -> list[str]:
        """Weights of which other numbers lie in the memory than were written there."""
        tensors = self.tensors(kind)
        return [
            each.name
            for each in written
            if digest_of_range(tensors[each.name].view(-1)[each.begin : each.end], each.begin) % 2**64 != each.digest
        ]

    def close(self) -> None:
        """As when nobody holds it any more. May be called twice."""
        self._mapped = {}
        self._closed()


def check_cover(table: Table, ranks: Sequence[Sequence[Written]]) -> None:
    """Raises EngineError unless every number of every weight in the table was written by exactly one rank."""
    ranges: dict[str, list[tuple[int, int, int]]] = {name: [] for name, _, _ in table.entries}
    for rank, written in enumerate(ranks):
        for each in written:
            ranges[each.name].append((each.begin, each.end, rank))
    for name, shape, _ in table.entries:
        at = 0
        for begin, end, rank in [*sorted(ranges[name]), (math.prod(shape), 0, None)]:
            if begin > at:
                raise EngineError(f"weights: no rank wrote the numbers {at} to {begin} of {name}")
            if begin < at:
                raise EngineError(f"weights: rank {rank} wrote numbers of {name} from {begin} on, another up to {at}")
            at = max(at, end)


def _put(piece: Piece, target: Tensor) -> int:
    """Casts, copies and sums a piece, block by block: its digest."""
    total, block = 0, block_size(piece.values.device)
    for first in range(0, len(piece.values), block):
        part = piece.values[first : first + block].to(target.dtype)
        target[first : first + block].copy_(part, non_blocking=part.is_cuda)
        total += digest_of_range(part, piece.begin + first)
    return total % 2**64


def _kernel() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
