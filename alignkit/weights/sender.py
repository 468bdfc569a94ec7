"""Brings the trainer's weights to engine processes: through the memory of their host, or lent on a card of both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import EngineError
from alignkit.models.device_type import default_device
from alignkit.weights.digest import digest
from alignkit.weights.handles import lend, lendable
from alignkit.weights.host_memory import HostMemory, Kind
from alignkit.weights.shared_weights import laid_out, table_of, whole_pages, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

Call = Callable[[dict[str, Any]], dict[str, Any]]
"""A message to an engine in, its answer out; to a fleet of them, what it makes of their answers."""
KINDS: tuple[Kind, ...] = ("adapter", "base")


class Sender:
    """The trainer's end of the weights. What the processes begin with sets the names and shapes of every update.

    folder: of a saved model. weights: what the processes begin with, by checkpoint name, so that of `folder` only the
    config is read. shapes: instead, of weights that are still to be written into `memory`. None of both: what `folder`
    holds. adapter: name and shape of the matrices that come beside them; then an update may leave the weights out that
    the engines have. dtype: in which they travel. lends: whether the weights of an update are lent by handles, to one
    process. Raises EngineError when the folder is not whole.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        *,
        weights: Iterable[tuple[str, Tensor]] | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        adapter: Mapping[str, tuple[int, ...]],
        lends: bool,
    ):
        matrices = laid_out(adapter, dtype)
        begin = whole_pages(matrices.size)
        descriptor = os.memfd_create("alignkit-weights")
        self._lends, self._in_memory, self._has_base = lends, (weights, shapes) != (None, None), False
        if weights is not None:
            base = write_tensors(descriptor, weights, dtype, begin=begin)
        else:
            base = table_of(folder, dtype, begin=begin) if shapes is None else laid_out(shapes, dtype, begin=begin)
        self.memory = HostMemory(descriptor, matrices, base)
        if weights is not None:
            self.memory.done(["base"])

    @property
    def descriptor(self) -> int:
        return self.memory.descriptor

    def told(self) -> dict[str, Any]:
        """What a process is told of it at its start; EngineError while what it would begin with is not whole.

        path: under which each of its workers opens the memory.
        """
        if self._in_memory:
            self._check_whole("base")
        return {
            "path": str(self.memory.place.path),
            "table": self.memory.base.as_json(),
            "adapter": self.memory.adapter.as_json(),
            "memory": self._in_memory,
        }

    def started(self) -> None:
        """The process has loaded what it begins with: where it is lent the rest, that memory is given back."""
        if self._lends:
            os.ftruncate(self.descriptor, self.memory.adapter.size)
            self.memory.begin(["base"])

    def lost(self) -> None:
        """The processes have not their weights any more: the next update must bring all of them."""
        self._has_base = False

    def send(self, weights: Iterable[tuple[str, Tensor]], version: int, call: Call) -> dict[str, Any]:
        """The answer to an update; EngineError, before it is told of, when names or shapes are others."""
        return self._lend(weights, version, call) if self._lends else self._copy(weights, version, call)

    def announce(self, version: int, call: Call) -> dict[str, Any]:
        """The answer to an update that lies in `memory`; EngineError, before it is told of, unless it is whole."""
        base = "base" in self.memory.fresh or not self._has_base
        self._check_whole(*(kind for kind in KINDS if base or kind != "base"))
        return self._told(call, {"do": "update", "version": version, "base": base})

    def close(self) -> None:
        self.memory.close()

    def _copy(self, weights: Iterable[tuple[str, Tensor]], version: int, call: Call) -> dict[str, Any]:
        """Through the shared memory."""
        import torch

        kinds: dict[str, Kind] = {name: kind for kind in KINDS for name in self.memory.tensors(kind)}
        came: set[Kind] = set()
        for name, tensor in self._checked(weights):
            came.add(kinds[name])
            self.memory.begin([kinds[name]])
            _write(self.memory.tensors(kinds[name])[name], tensor)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # with the copies into the memory
        self.memory.done(came)
        return self.announce(version, call)

    def _lend(self, weights: Iterable[tuple[str, Tensor]], version: int, call: Call) -> dict[str, Any]:
        """By handles, with digests to compare, which live until the engine has answered; an adapter by the memory."""
        import torch

        dtype = getattr(torch, self.memory.base.dtype)
        places = self.memory.tensors("adapter")
        with lendable():
            lent = {}
            for name, tensor in self._checked(weights):
                if name in places:
                    _write(places[name], tensor)
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
        self._has_base = False  # until the answer has come
        reply = call(message)
        self._has_base = bool(self.memory.adapter.entries)
        self.memory.fresh.clear()
        return reply

    def _check_whole(self, *kinds: Kind) -> None:
        if torn := [kind for kind in kinds if kind in self.memory.torn]:
            raise EngineError(
                f"weights: the memory of the host holds parts of different versions ({', '.join(torn)}), of which no "
                "engine may load; every rank must write an update whole first"
            )

    def _checked(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same; EngineError, before the engine is told, when names or shapes are not those of the start."""
        wanted = {name: shape for name, shape, _ in (*self.memory.adapter.entries, *self.memory.base.entries)}
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
        if missing and not (self._has_base and missing == {name for name, _, _ in self.memory.base.entries}):
            raise EngineError(f"vllm engine: an update lacks {len(missing)} weights, first: {min(missing)}")


def _write(target: Tensor, tensor: Tensor) -> None:
    """A card casts to the engine's dtype before it copies, and does not wait."""
    target.copy_(tensor.to(target.dtype) if tensor.is_cuda else tensor, non_blocking=True)
