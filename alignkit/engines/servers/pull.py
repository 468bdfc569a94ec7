"""Fetches the weights of one version from the trainer, piece by piece, each tensor compared by its digest."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignkit.errors import EngineError
from alignkit.rewards.serve.endpoint import Endpoint, EndpointError
from alignkit.weights.digest import digest
from alignkit.weights.shared_weights import Table

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 16 * 2**20  # bytes of a request
TENSOR_S = 600.0


def pull(trainer: Endpoint, table: Table, version: int) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of every weight of `version`, in the table's dtype and order; one at a time is held.

    Called outside an event loop. Raises EngineError when the trainer has another version by now, when it is gone, or
    when a tensor is not what the trainer says it is.
    """
    import torch

    dtype = getattr(torch, table.dtype)
    with asyncio.Runner() as runner:
        try:
            digests = runner.run(trainer.get(f"/weights/{version}/digests", until=time.monotonic() + TENSOR_S))
            for (name, shape, begin), wanted in zip(table.entries, digests, strict=True):
                size = math.prod(shape) * dtype.itemsize
                content = bytearray(size)
                runner.run(_fill(content, trainer, version, begin))
                tensor = torch.frombuffer(content, dtype=dtype).view(shape) if size else torch.empty(shape, dtype=dtype)
                if digest(tensor).value != wanted:
                    raise EngineError(f"replica: {name} of version {version} was damaged on its way; pull again")
                yield name, tensor
        except EndpointError as error:
            raise EngineError(f"replica: cannot pull version {version} from {trainer.url}: {error}") from error


async def _fill(content: bytearray, trainer: Endpoint, version: int, begin: int) -> None:
    """Fetches the bytes of the memory from `begin` on, a few pieces at a time.

    Nothing is returned: in the main thread asyncio's runner writes a task's result out as text (CPython 3.11).
    """
    until, end = time.monotonic() + TENSOR_S, begin + len(content)

    async def fetch(start: int, stop: int) -> None:
        piece = await trainer.fetch(f"/weights/{version}/{start}/{stop}", until=until)
        if len(piece) != stop - start:
            raise EngineError(f"replica: {trainer.url} told {len(piece)} bytes from {start} to {stop}")
        content[start - begin : stop - begin] = piece

    await asyncio.gather(*(fetch(start, min(start + PIECE, end)) for start in range(begin, end, PIECE)))
