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
                content = runner.run(_range(trainer, version, begin, begin + size))
                if len(content) != size:
                    raise EngineError(f"replica: {name} of version {version} has {len(content)} bytes, wanted {size}")
                tensor = torch.frombuffer(content, dtype=dtype).view(shape) if size else torch.empty(shape, dtype=dtype)
                if digest(tensor).value != wanted:
                    raise EngineError(f"replica: {name} of version {version} was damaged on its way; pull again")
                yield name, tensor
        except EndpointError as error:
            raise EngineError(f"replica: cannot pull version {version} from {trainer.url}: {error}") from error


async def _range(trainer: Endpoint, version: int, begin: int, end: int) -> bytearray:
    until = time.monotonic() + TENSOR_S
    cuts = range(begin, end, PIECE)
    paths = [f"/weights/{version}/{start}/{min(start + PIECE, end)}" for start in cuts]
    return bytearray().join(await asyncio.gather(*(trainer.fetch(path, until=until) for path in paths)))
