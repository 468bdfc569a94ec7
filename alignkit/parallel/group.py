"""The ranks of a run. Rank and world size come from the launcher's environment, never from accelerate's state."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

TIMEOUT = timedelta(minutes=30)  # rank 0 may sample for minutes while the others wait for its batch


@dataclass(frozen=True)
class Group:
    """All ranks. With a world of one every method is the identity and torch.distributed is never touched."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over the ranks."""
        if self.world > 1:
            values = values.clone()
            torch.distributed.all_reduce(values)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's value on every rank (the others pass None). Pickled between our own processes."""
        if self.world == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        if self.world > 1:
            torch.distributed.barrier()


def join_group() -> Group:
    """Joins the process group that the launcher describes through RANK and WORLD_SIZE; alone without them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Group()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    return Group(torch.distributed.get_rank(), torch.distributed.get_world_size())
