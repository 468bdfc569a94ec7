"""A training process whose results depend on nothing but its inputs, on a GPU too."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS then takes the same split of a product every time


@contextmanager
def deterministic(wanted: bool) -> Generator[None]:
    """Where wanted: kernels whose sums have one order; an operation that has none raises RuntimeError and names itself.

    Must be entered before the first CUDA call. Attention asks torch.are_deterministic_algorithms_enabled() and takes
    the deterministic backward; engines are told by their settings (build.engine_settings).
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(*WORKSPACE)
    switches: Any = torch.utils.deterministic
    before, fill = torch.are_deterministic_algorithms_enabled(), switches.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    switches.fill_uninitialized_memory = False  # finds bugs at the price of time; not needed here
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        switches.fill_uninitialized_memory = fill
