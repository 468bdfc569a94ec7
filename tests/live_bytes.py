"""Bytes of the tensors that live, counted at every operation: what an allocator would hold."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """now: bytes of tensors that were made within it and are still there. peak: the most that there were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and not made.is_meta and made.untyped_storage()._cdata not in self.known:
                storage = made.untyped_storage()
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return out

    def gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak(work: Callable[[], Any]) -> int:
    """Most bytes that lived at one time while `work` ran."""
    with Live() as live:
        work()
    return live.peak


def held(work: Callable[[], Any]) -> int:
    """Bytes that live as long as the result of `work` does."""
    with Live() as live:
        result = work()
        bytes_held = live.now
    del result
    return bytes_held
