"""The ranks of a run. Rank and world size come from the launcher's environment, never from accelerate's state.

What ranks tell one another here lies in host memory and goes over gloo, on GPUs too: a rank that waits sleeps in a
socket. Gradients and shards are DeepSpeed's business and go over the device's own backend.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

# Rank 0 may sample, score and evaluate for hours while the others wait for its batch. A rank that died is noticed
# at once: its connection is closed.
WAIT = timedelta(hours=24)
# Between devices ranks meet inside a forward or backward only: who does not come within this time hangs.
COLLECTIVE = timedelta(minutes=10)
BACKENDS = {"cpu": "cpu:gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True)
class Group:
    """All ranks. With a world of one every method is the identity and torch.distributed is never touched.

    waiting: the process group of the methods here, over gloo; None is the default group.
    """

    rank: int = 0
    world: int = 1
    waiting: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over the ranks, of a tensor in host memory."""
        if self.world > 1:
            values = values.clone()
            torch.distributed.all_reduce(values, group=self.waiting)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's value on every rank (the others pass None). Pickled between our own processes."""
        if self.world == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, group=self.waiting)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value, group=self.waiting)
        return values

    def barrier(self) -> None:
        if self.world > 1:
            torch.distributed.barrier(group=self.waiting)


def join_group() -> Group:
    """Joins the process group that the launcher describes through RANK and WORLD_SIZE; alone without them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Group()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(BACKENDS[device], timeout=COLLECTIVE)
    waiting = torch.distributed.new_group(backend="gloo", timeout=WAIT)
    return Group(torch.distributed.get_rank(), torch.distributed.get_world_size(), waiting)
