"""The gradient noise scale over a run: single estimates (ops/noise.py) are mostly noise themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignkit.train.hooks.hook import Hook, HookMemory, Metrics

MEMORY = 0.95  # the means run over about 20 steps


@dataclass(frozen=True, kw_only=True)
class NoiseScale(Hook):
    """Noise over signal, each a running mean of its own; nothing in steps that could not measure them."""

    name: ClassVar[str] = "noise"

    def at_end(self, metrics: Metrics, memory: HookMemory) -> tuple[HookMemory, Metrics]:
        if "noise/signal" not in metrics:
            return memory, {}
        after = {
            name: MEMORY * memory.get(name, metrics[name]) + (1 - MEMORY) * metrics[name]
            for name in ("noise/signal", "noise/variance")
        }
        signal = after["noise/signal"]
        return after, {"noise/scale": after["noise/variance"] / signal} if signal > 0 else {}
