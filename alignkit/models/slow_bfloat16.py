"""Whether this machine computes bfloat16 by hand: a CPU without instructions for it is many times slower."""

from __future__ import annotations

from pathlib import Path

from alignkit.models.device_type import default_device

INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")
"""Flags of x86 and ARM processors of which each multiplies bfloat16."""
CPUINFO = Path("/proc/cpuinfo")


def slow_bfloat16(dtype: str, device: str | None = None, cpuinfo: Path = CPUINFO) -> str | None:
    """What to say of a run that computes in bfloat16 on such a CPU; None for all others, and where nothing tells.

    dtype: `model.dtype`. device: where the model is, None: where it would be put. cpuinfo: what Linux tells of the
    processor.
    Measured on an AMD EPYC without these instructions: a matrix product takes 4 to 37 times as long as in float32.
    """
    if dtype != "bfloat16" or not (device or default_device()).startswith("cpu"):
        return None
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    flags = next((line.split() for line in lines if line.lower().startswith(("flags", "features"))), None)
    if flags is None or any(one in flags for one in INSTRUCTIONS):
        return None
    return (
        "model.dtype: this CPU has no instructions for bfloat16 and computes it many times slower than float32; "
        "set model.dtype=float32 (twice the memory)"
    )
