"""Brings the trainer's weights to the engine process: through anonymous shared memory, or lent on a card of both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.engines.vllm.digest import digest
from alignkit.engines.vllm.handles import lend, lendable
from alignkit.engines.vllm.shared_weights import map_tensors, pin, table_of, write_tensors
from alignkit.errors import EngineError
from alignkit.models.device_type import default_device

if TYPE_CHECKING:
    from torch import Tensor

Call = Callable[[dict[str, Any]], dict[str, Any]]
"""A message to the engine process in, its answer out."""


class Sender:
    """The trainer's end of the weights. What the process begins with sets the names and shapes of every update.

    folder: of a saved model. weights: what the process begins with, by checkpoint name, so that of `folder` only the
    config is read; None: what `folder` holds. dtype: in which they travel. lends: whether updates are lent by handles.
    Raises EngineError when the folder is not whole.
    """

    def __init__(self, folder: Path, dtype: str, *, weights: Iterable[tuple[str, Tensor]] | None, lends: bool):
        stored = table_of(folder, dtype) if weights is None else None
        self.descriptor = os.memfd_create("alignkit-weights")
        self._lends, self._memory = lends, weights is not None
        self._mapped: dict[str, Tensor] | None = None
        self._table = stored or write_tensors(self.descriptor, weights or (), dtype)

    def told(self) -> dict[str, Any]:
        """What the process is told of it at its start."""
        return {"table": self._table.as_json(), "memory": self._memory}

    def started(self) -> None:
        """The process has loaded what it begins with: where it is lent the rest, the memory is given back."""
        if self._lends:
            os.ftruncate(self.descriptor, 0)

    def send(self, weights: Iterable[tuple[str, Tensor]], version: int, call: Call) -> dict[str, Any]:
        """The process's answer to an update; EngineError, before it is told, when names or shapes are others."""
        return self._lend(weights, version, call) if self._lends else self._copy(weights, version, call)

    def close(self) -> None:
        self._mapped = None
        os.close(self.descriptor)

    def _copy(self, weights: Iterable[tuple[str, Tensor]], version: int, call: Call) -> dict[str, Any]:
        """Through the shared memory; a card casts to the engine's dtype before it copies, and does not wait."""
        import torch

        if self._mapped is None:
            self._mapped = map_tensors(self.descriptor, self._table)
            if torch.cuda.is_available():
                pin(self._mapped, self._table)
        for name, tensor in self._checked(weights):
            target = self._mapped[name]
            target.copy_(tensor.to(target.dtype) if tensor.is_cuda else tensor, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return call({"do": "update", "version": version})

    def _lend(self, weights: Iterable[tuple[str, Tensor]], version: int, call: Call) -> dict[str, Any]:
        """By handles, with digests to compare. The copies in the engine's dtype live until the engine has answered."""
        import torch

        dtype = getattr(torch, self._table.dtype)
        with lendable():
            lent = {name: tensor.to(default_device(), dtype, copy=True) for name, tensor in self._checked(weights)}
            digests = [digest(tensor).value for tensor in lent.values()]
            reply = call({"do": "borrow", "version": version, "digests": digests, **lend(lent)})
            lent.clear()
        torch.cuda.ipc_collect()
        return reply

    def _checked(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same; EngineError, before the engine is told, when names or shapes are not those of the start."""
        wanted = {name: shape for name, shape, _ in self._table.entries}
        missing = set(wanted)
        for name, tensor in weights:
            if name not in missing:
                what = "twice" if name in wanted else "which the model folder lacks"
                raise EngineError(f"vllm engine: an update brings {name}, {what}")
            if wanted[name] != tuple(tensor.shape):
                raise EngineError(
                    f"vllm engine: an update brings {name} as {tuple(tensor.shape)}, wanted {wanted[name]}"
                )
            missing.remove(name)
            yield name, tensor
        if missing:
            raise EngineError(f"vllm engine: an update lacks {len(missing)} weights, first: {min(missing)}")
