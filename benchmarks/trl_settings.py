"""The settings of TRL that trl_tuning.py compares, and the best of them, which grpo_step.py measures against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """batch: sequences per forward. weights: their dtype. autocast: bfloat16 arithmetic. cache: of generation.
    checkpointing: recompute activations, TRL's default. compile: torch.compile of the model. allocator: with our glibc
    settings, which are not TRL's but could be set by its user.
    """

    batch: int = 8
    weights: str = "float32"
    autocast: bool = True
    cache: str | None = None
    checkpointing: bool = False
    compile: bool = False
    allocator: bool = False
