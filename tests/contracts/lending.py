"""A stand-in for CUDA IPC that is stricter than it: a handle opens once, in another process, while the lender lives.

What a handle names is a file. When the lender's tensor is freed the file is filled with NaN and removed, so that a
borrower who still reads it computes nonsense, as he might on a GPU.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

CARD = SimpleNamespace(uuid="GPU-of-the-tests")
DEVICE = 6  # place of the device in the arguments of torch's rebuild_cuda_tensor, which the borrower sets
FOLDER = Path(tempfile.gettempdir()) / "alignkit-lent"


def reduce_tensor(tensor: torch.Tensor) -> tuple[Any, tuple[Any, ...]]:
    """Stands in for torch.multiprocessing.reductions.reduce_tensor."""
    FOLDER.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=FOLDER)
    with os.fdopen(handle, "wb") as file:
        file.write(bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy()))
    weakref.finalize(tensor, _free, name)
    return None, (name, os.getpid(), tuple(tensor.shape), tensor.dtype, None, None, None)


def _free(name: str) -> None:
    size = Path(name).stat().st_size
    with Path(name).open("r+b") as file:
        file.write(b"\xff" * size)  # NaN in float32 and bfloat16
    Path(name).unlink()


def rebuild_cuda_tensor(*arguments: Any) -> torch.Tensor:
    """Stands in for the function of this name that vLLM's receiver calls."""
    name, owner, shape, dtype = arguments[:4]
    assert owner != os.getpid(), "CUDA cannot open a handle in the process that made it"
    opened = Path(f"{name}.opened")
    opened.touch(exist_ok=False)  # one reference counted, one opening
    opened.unlink()
    tensor = torch.from_file(name, shared=True, size=max(1, torch.Size(shape).numel()), dtype=dtype)
    return tensor[: torch.Size(shape).numel()].view(shape)
