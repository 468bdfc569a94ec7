"""Where a tensor lies, or would lie: what decides between kernels, and how large their pieces are."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HEAD_ROWS = {"cpu": 256, "cuda": 2048}
"""Rows of logits that exist at a time, by device: 50 MB in float32 for a vocabulary of 49k, which fits a CPU's cache; a
GPU wants large tiles, and 1.2 GB are at hand there for a vocabulary of 152k."""
_PLANNED: ContextVar[str | None] = ContextVar("planned device type", default=None)


def device_type(tensor: Tensor) -> str:
    """ "cpu" or "cuda"; within `planned_for` what is planned for, though the tensors, of sizes only, lie on the CPU."""
    return _PLANNED.get() or tensor.device.type


@contextmanager
def planned_for(kind: str) -> Generator[None]:
    """Within it code chooses what it would choose on such a device."""
    token = _PLANNED.set(kind)
    try:
        yield
    finally:
        _PLANNED.reset(token)


def is_planned() -> bool:
    """Whether what is computed now is only planned: there need be no such device."""
    return _PLANNED.get() is not None


def has_gpu() -> bool:
    """Whether models are trained on a GPU, or are planned to be."""
    import torch

    return _PLANNED.get() == "cuda" if is_planned() else torch.cuda.is_available()


def default_device() -> str:
    """Where a model is put that nobody names a device for: this process's GPU where torch sees one, else the CPU."""
    import torch

    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
