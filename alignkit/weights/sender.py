"""Brings the trainer's weights to the engine process: through anonymous shared memory, or lent on a card of both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import EngineError
from alignkit.models.device_type import default_device
from alignkit.weights.digest import digest
from alignkit.weights.handles import lend, lendable
from alignkit.weights.shared_weights import Table, laid_out, map_tensors, pin, table_of, whole_pages, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

Call = Callable[[dict[str, Any]], dict[str, Any]]
"""A message to the engine process in, its answer out."""


class Sender:
    """The trainer's end of the weights. What the process begins with sets the names and shapes of every update.

    folder: of a saved model. weights: what the process begins with, by checkpoint name, so that of `folder` only the
    config is read; None: what `folder` holds. adapter: name and shape of the matrices that come beside them; then an
    update may leave the weights out that the engine has. dtype: in which they travel. lends: whether the weights of an
    update are lent by handles. Raises EngineError when the folder is not whole.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        *,
        weights: Iterable[tuple[str, Tensor]] | None,
        adapter: Mapping[str, tuple[int, ...]],
        lends: bool,
    ):
        self._adapter = laid_out(adapter, dtype)
        begin = whole_pages(self._adapter.size)
        stored = table_of(folder, dtype, begin=begin) if weights is None else None
        self.descriptor = os.memfd_create("alignkit-weights")
        self._lends, self._memory, self._has_base = lends, weights is not None, False
        self._mapped: dict[str, Tensor] = {}
        self._base = stored or write_tensors(self.descriptor, weights or (), dtype, begin=begin)

    def told(self) -> dict[str, Any]:
        """What the process is told of it at its start. path: under which each of its workers opens the memory."""
        path = f"/proc/{os.getpid()}/fd/{self.descriptor}"
        tables = {"table": self._base.as_json(), "adapter": self._adapter.as_json()}
        return {"path": path, **tables, "memory": self._memory}

    def started(self) -> None:
        """The process has loaded what it begins with: where it is lent the rest, that memory is given back."""
        if self._lends:
            os.ftruncate(self.descriptor, self._adapter.size)

    def lost(self) -> None:
        """The process has not its weights any more: the next update must bring all of them."""
        self._has_base = False

    def send(self, weights: Iterable[tuple[str, Tensor]], version: int, call: Call) -> dict[str, Any]:
        """The process's answer to an update; EngineError, before it is told, when names or shapes are others."""
        return self._lend(weights, version, call) if self._lends else self._copy(weights, version, call)

    def close(self) -> None:
        self._mapped = {}
        os.close(self.descriptor)

    def _copy(self, weights: Iterable[tuple[str, Tensor]], version: int, call: Call) -> dict[str, Any]:
        """Through the shared memory."""
        for table in (self._adapter, self._base):
            self._map(table)
        came = [self._write(name, tensor) for name, tensor in self._checked(weights)]
        return self._told(call, {"do": "update", "version": version, "base": len(came) > len(self._adapter.entries)})

    def _lend(self, weights: Iterable[tuple[str, Tensor]], version: int, call: Call) -> dict[str, Any]:
        """By handles, with digests to compare, which live until the engine has answered; an adapter by the memory."""
        import torch

        dtype = getattr(torch, self._base.dtype)
        self._map(self._adapter)
        with lendable():
            lent = {}
            for name, tensor in self._checked(weights):
                if name in self._mapped:
                    self._write(name, tensor)
                else:
                    lent[name] = tensor.to(default_device(), dtype, copy=True)
            message = {"do": "update", "version": version, "base": False}
            if lent:
                digests = [digest(tensor).value for tensor in lent.values()]
                message = {"do": "borrow", "version": version, "digests": digests, **lend(lent)}
            reply = self._told(call, message)
            lent.clear()
        torch.cuda.ipc_collect()
        return reply

    def _told(self, call: Call, message: dict[str, Any]) -> dict[str, Any]:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()  # with the copies into the memory
        self._has_base = False  # until the answer has come
        reply = call(message)
        self._has_base = bool(self._adapter.entries)
        return reply

    def _map(self, table: Table) -> None:
        """The tensors of a table, once, in memory that a card may copy from and to directly."""
        import torch

        if table.entries and table.entries[0][0] not in self._mapped:
            mapped = map_tensors(self.descriptor, table)
            if torch.cuda.is_available():
                pin(mapped, table)
            self._mapped |= mapped

    def _write(self, name: str, tensor: Tensor) -> None:
        """A card casts to the engine's dtype before it copies, and does not wait."""
        target = self._mapped[name]
        target.copy_(tensor.to(target.dtype) if tensor.is_cuda else tensor, non_blocking=True)

    def _checked(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same; EngineError, before the engine is told, when names or shapes are not those of the start."""
        wanted = {name: shape for name, shape, _ in (*self._adapter.entries, *self._base.entries)}
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
        if missing and not (self._has_base and missing == {name for name, _, _ in self._base.entries}):
            raise EngineError(f"vllm engine: an update lacks {len(missing)} weights, first: {min(missing)}")
