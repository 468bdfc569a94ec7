"""In which numbers a recipe computes on this machine, settled once at its start."""

from __future__ import annotations

from pathlib import Path

from alignkit.models.device_type import default_device
from alignkit.recipe.schema import Recipe

INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")
"""Flags of x86 and ARM processors of which each multiplies bfloat16."""
CPUINFO = Path("/proc/cpuinfo")
CURE = "it is many times slower than float32; set model.dtype=float32 (twice the memory), or auto"


def settled(
    recipe: Recipe, *, begun: str | None = None, device: str | None = None, cpuinfo: Path = CPUINFO
) -> tuple[Recipe, str | None]:
    """The recipe with this machine's numbers in the place of `model.dtype: auto`, and what to say of them.

    bfloat16 where the hardware multiplies it, else float32. begun: in what a run that goes on began to compute, which
    auto stays. device: where the model is, None: where it would be put. cpuinfo: what Linux tells of the processor.
    bfloat16 by name on a CPU that says it cannot stays, and is warned of: on an AMD EPYC without these instructions a
    matrix product takes 4 to 37 times as long as in float32.
    """
    written, (computes, why) = recipe.model.dtype, _hardware(device or default_device(), cpuinfo)
    if written != "auto":
        return recipe, f"model.dtype: {why}: {CURE}" if written == "bfloat16" and computes is False else None
    here = "bfloat16" if computes else "float32"
    dtype, sentence = begun or here, f"model.dtype: auto is {here}, for {why}"
    if dtype != here:
        sentence = f"model.dtype: auto stays {dtype}, in which this run began; a new one would take {here}, for {why}"
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": dtype})}), sentence


def _hardware(device: str, cpuinfo: Path) -> tuple[bool | None, str]:
    """Whether it multiplies bfloat16, None where nothing tells, and that in words."""
    import torch

    if not device.startswith("cpu"):
        computes = torch.cuda.is_bf16_supported(including_emulation=False)
        return computes, f"this GPU {'computes bfloat16' if computes else 'has no instructions for bfloat16'}"
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line.split() for line in lines if line.lower().startswith(("flags", "features"))), None)
    if flags is None:
        return None, "nothing tells whether this CPU has instructions for bfloat16"
    computes = any(one in flags for one in INSTRUCTIONS)
    return computes, f"this CPU has {'' if computes else 'no '}instructions for bfloat16"
