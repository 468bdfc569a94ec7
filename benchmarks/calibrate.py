"""What this machine gives right now: matrix products and memory bandwidth. Measured around every measurement.

Neighbours on a shared machine change its speed by factors, so a number counts only when the machine was the same before
and after it.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

NOISY = 0.15  # a measurement is called noisy when a calibration around it changed by more than this
REPEATS = 5


@dataclass(frozen=True)
class Calibration:
    """GEMMs in GFLOP/s, bandwidths in GB/s (reads and writes counted); medians of a few runs on all threads."""

    bfloat16_gemm: float
    """2048 x 2048 x 2048."""
    float32_gemm: float
    """1024 x 1024 x 1024."""
    model_gemm: float
    """bfloat16, a SmolLM2-135M feed-forward layer on 4096 tokens: 4096 x 576 x 1536."""
    read: float
    """Sum of 256 MB."""
    copy: float
    """Copy of 256 MB."""


def calibrate() -> Calibration:
    """Takes about a second on two idle cores."""
    memory = torch.ones(2**26)
    target = torch.empty_like(memory)
    return Calibration(
        bfloat16_gemm=_gemm(2048, 2048, 2048, torch.bfloat16),
        float32_gemm=_gemm(1024, 1024, 1024, torch.float32),
        model_gemm=_gemm(4096, 576, 1536, torch.bfloat16),
        read=memory.nbytes / _seconds(memory.sum) / 1e9,
        copy=2 * memory.nbytes / _seconds(lambda: target.copy_(memory)) / 1e9,
    )


def drift(calibrations: Sequence[Calibration]) -> float:
    """Largest relative change of any figure over the calibrations: 0.15 means that one was 15 % above another."""
    columns = zip(*(dataclasses.astuple(calibration) for calibration in calibrations), strict=True)
    return max(max(column) / min(column) - 1 for column in columns)


def _gemm(rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    left, right = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
    return 2 * rows * inner * columns / _seconds(lambda: left @ right) / 1e9


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


if __name__ == "__main__":
    for name, value in dataclasses.asdict(calibrate()).items():
        print(f"{name:14} {value:8.1f}")
