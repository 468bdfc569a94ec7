"""Weights on a card that trainer and engine share: the trainer lends its memory by CUDA IPC handles, nothing is copied.

A handle is what torch.multiprocessing makes of a CUDA tensor; vLLM's own weight transfer (`ipc`) opens it. The lender
keeps the tensors until the borrower is done: vLLM holds views of them until the layer that they belong to is whole.
"""

from __future__ import annotations

import base64
import os
import pickle
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.multiprocessing import reductions

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def lendable() -> Generator[None]:
    """What is allocated on the card within it can be lent: in a pool of its own, and not in expandable segments.

    The trainer's allocator makes such segments (`TRAINERS_ALLOCATOR`); another process may open them only where it may
    trace this one, which most systems forbid a child. The pool lives as long as the context: let go of it all within.
    """
    import torch

    if not torch.cuda.is_available():
        yield
        return
    torch._C._accelerator_setAllocatorSettings("expandable_segments:False")
    try:
        with torch.cuda.use_mem_pool(torch.cuda.MemPool()):
            yield
    finally:
        torch._C._accelerator_setAllocatorSettings(
            os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:False")
        )


def lend(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Handles of the tensors, as JSON. All must lie on one CUDA device; they must live until the borrower answered."""
    import torch

    device = next(iter(tensors.values())).device
    card = str(torch.cuda.get_device_properties(device).uuid)
    torch.cuda.synchronize(device)  # the other process does not wait for this one's streams
    handles = [{card: reductions.reduce_tensor(tensor)[1]} for tensor in tensors.values()]
    return {
        "names": list(tensors),
        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()],
        "shapes": [list(tensor.shape) for tensor in tensors.values()],
        "handles": base64.b64encode(pickle.dumps(handles)).decode(),
    }


def update_info(lent: Mapping[str, Any]) -> dict[str, Any]:
    """What vLLM's `update_weights` takes. Unpickles: only for what the process's own parent has sent."""
    told = dict(lent)
    return told | {"ipc_handles": pickle.loads(base64.b64decode(told.pop("handles")))}
