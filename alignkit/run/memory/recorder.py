"""Writes down every block of memory that tensors take and give back, and what for."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alignkit.parallel.memory.trace import Trace

PACKAGE = str(Path(__file__).resolve().parents[2])
HERE = str(Path(__file__).resolve().parent)


class Recorder(TorchDispatchMode):
    """Within it, the results of all operations on tensors that `counts` is true of.

    role_of: (tensor, file of this package that computes it) -> what a new block is for. `phase` is changed by `enter`.
    paused: new blocks are passed over.
    """

    def __init__(self, counts: Callable[[Tensor], bool], role_of: Callable[[Tensor, str], str]):
        super().__init__()
        self.trace, self.phase, self.paused = Trace(), "start", False
        self._passes = 0
        self._counts, self._role_of = counts, role_of
        self._blocks: dict[int, int] = {}  # of the storages that live, by their address

    def enter(self, phase: str) -> None:
        self.phase, self._passes = phase, 0
        self.trace.enter(phase)

    def next_pass(self) -> None:
        """The next forward pass of the phase begins: `PHASE/NUMBER`, so that like is compared with like."""
        self._passes += 1
        self.phase = f"{self.phase.partition('/')[0]}/{self._passes}"
        self.trace.enter(self.phase)

    def hold(self, tensors: Iterable[Tensor], role: str) -> None:
        """These tensors are for `role`, those that were there before included."""
        for tensor in tensors:
            block = self._blocks.get(tensor.untyped_storage()._cdata)
            if block is None:
                self._add(tensor, role)
            else:
                self.trace.roles[block] = role

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in () if self.paused else tree_leaves(result):
            if isinstance(tensor, Tensor) and self._counts(tensor) and self._is_new(tensor):
                self._add(tensor, self._role_of(tensor, _computed_by()))
        return result

    def _is_new(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata not in self._blocks

    def _add(self, tensor: Tensor, role: str) -> None:
        storage = tensor.untyped_storage()
        size, address = storage.nbytes(), storage._cdata
        self._blocks[address] = self.trace.allocate(self.phase, size, role)
        weakref.finalize(storage, self._free, address, size).atexit = False

    def _free(self, address: int, size: int) -> None:
        self.trace.free(self.phase, self._blocks.pop(address), size)


def _computed_by() -> str:
    """The file of this package, relative to it, in which the present operation is computed: the innermost one."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE) and not file.startswith(HERE):
            return file[len(PACKAGE) + 1 :]
        frame = frame.f_back
    return ""
