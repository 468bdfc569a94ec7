"""The ranks of a run as they write the memory of the engine's host together, each its own pieces."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.errors import EngineError, SyncError
from alignkit.models.weights import Part
from alignkit.parallel.far_writers import FarWriters, raise_first
from alignkit.parallel.group import Group
from alignkit.weights.host_memory import HostMemory, Kind, Written, check_cover
from alignkit.weights.piece import Piece
from alignkit.weights.pieces import pieces

if TYPE_CHECKING:
    from torch.nn import Module

ENDS_WITHIN_S = 5.0  # a process whose connections are closed is gone


@dataclass(frozen=True)
class Writers:
    """memory: as this rank sees it. processes: of the ranks, in their order."""

    group: Group
    memory: HostMemory
    processes: tuple[int, ...]

    @classmethod
    def open(cls, group: Group, memory: HostMemory | None) -> Writers | None:
        """memory: the first rank's, of others None. All ranks call it; None when one of them cannot reach the memory,
        as from another host, or there is none: then the first rank must be given whole weights."""
        place = group.from_first(memory.place if memory else None)
        if place is None:
            return None
        own = memory or HostMemory.opened(place)
        found = group.gather((os.getpid(), own is not None))
        if own is not None and all(reached for _, reached in found):
            return cls(group, own, tuple(process for process, _ in found))
        if own is not None and memory is None:
            own.close()
        return None

    def write(self, parts: Sequence[Part], own: Callable[[Part], Iterator[Piece]], *, version: int) -> None:
        """Every rank writes its own pieces of these parts; afterwards they lie in the memory whole, and are proven to.

        The ranks' pieces cover every number once, and each rank finds in the memory, by digest, what the next one says
        that it has written. All ranks call it, and all raise EngineError together when one of them failed, or that is
        not so; SyncError when one has died. The memory counts as torn from the first number until the proof.
        """
        with self._naming_the_dead(version):
            for part in parts:
                self._write(part, own(part), version)

    def _write(self, part: Part, pieces: Iterator[Piece], version: int) -> None:
        kind: Kind = "adapter" if part == "adapter" else "base"
        self.memory.begin([kind])
        self.group.barrier()  # nobody writes before the first rank knows that the memory is torn
        written, problem = self._written(kind, pieces)
        said = self.group.gather((written, problem))
        raise_first([problem for _, problem in said], version)
        ranks = [written for written, _ in said]
        check_cover(self.memory.table(kind), ranks)
        odd = self.memory.differing(kind, ranks[(self.group.rank + 1) % self.group.world])
        found = [
            f"the memory holds otherwise what it wrote of {odd[0]}" if odd else "" for odd in self.group.gather(odd)
        ]
        raise_first([found[-1], *found[:-1]], version)  # each was found by the rank before
        self.memory.done([kind])

    def _written(self, kind: Kind, pieces: Iterator[Piece]) -> tuple[list[Written], str]:
        try:
            return self.memory.write(kind, pieces), ""
        except EngineError as error:
            deque(pieces, maxlen=0)  # the others may be waiting for this rank to gather
            return [], str(error)

    @contextmanager
    def _naming_the_dead(self, version: int) -> Generator[None]:
        """Says which rank has died instead of which connection was closed."""
        try:
            yield
        except EngineError:
            raise
        except RuntimeError as error:  # of torch.distributed
            dead = ", ".join(f"rank {rank} (process {self.processes[rank]})" for rank in _gone(self.processes))
            if not dead:
                raise
            raise SyncError(
                f"weight sync to version {version}: {dead} died before all weights were written; no engine was told, "
                "each still holds the version before; go on from the last checkpoint with --resume"
            ) from error


def write_together(model: Module, group: Group, memory: HostMemory | None, part: Part) -> bool:
    """Writes what an engine begins with: a part of a model that has no trainer yet. memory, and raises, as `Writers`.

    All ranks call it; whether it was done, on all of them.
    """
    writers = open_writers(group, memory)
    if writers is None:
        return False
    writers.write([part], lambda part: pieces(model, rank=group.rank, world=group.world, part=part), version=0)
    if isinstance(writers, FarWriters):
        writers.close()
    elif memory is None:
        writers.memory.close()
    return True


def open_writers(group: Group, memory: HostMemory | None) -> Writers | FarWriters | None:
    """Those who write where all ranks reach the memory, else who send; None where there is no memory: they gather.

    memory: the first rank's, of others None. All ranks call it.
    """
    return Writers.open(group, memory) or FarWriters.open(group, memory)


def _gone(processes: Sequence[int]) -> list[int]:
    """Which of some processes of this host have ended, as soon as one has."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while time.monotonic() < deadline:
        if found := [number for number, process in enumerate(processes) if not _lives(process)]:
            return found
        time.sleep(0.05)
    return []


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
