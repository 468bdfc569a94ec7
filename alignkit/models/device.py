"""The device that a model is put on where nobody names one."""

from __future__ import annotations


def default_device() -> str:
    """This process's accelerator where torch sees one, else the CPU."""
    import torch

    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
