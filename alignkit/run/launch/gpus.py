"""GPUs that a process started here would see, without importing torch."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping


def visible_gpus(environ: Mapping[str, str]) -> int:
    """GPUs that a process started here would see: those of CUDA_VISIBLE_DEVICES, else all that the driver lists."""
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        devices = [device.strip() for device in named.split(",")]
        return next((place for place, device in enumerate(devices) if device in ("", "-1")), len(devices))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
