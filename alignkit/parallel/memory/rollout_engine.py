"""What a rollout engine holds on the device that it shares with the first trainer."""

from __future__ import annotations

from dataclasses import dataclass

from alignkit.parallel.memory.trace import Held

ENGINE_WORKSPACE = 2 * 10**9
"""Bytes that vLLM needs beside weights and cache, for activations and logits of what it reads at once: assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmShare:
    """vLLM takes a fixed share of the device, keeps it, and fills what its weights leave with keys and values.

    share: `rollouts.gpu_memory_fraction`. weights: bytes. token: of a token's keys and values. context: tokens of the
    longest sequence.
    """

    share: float
    weights: int
    token: int
    context: int

    def held(self, device: int) -> Held:
        """On a device of so many bytes."""
        whole = round(self.share * device)
        return {"engine weights": self.weights, "engine cache": max(0, whole - self.weights)}

    def sequences(self, device: int) -> int:
        """How many of the longest sequences its cache has room for at once; 0: it does not start."""
        room = round(self.share * device) - self.weights - ENGINE_WORKSPACE
        return max(0, room // (self.token * self.context))

    def smallest(self, device: int, sequences: int) -> float:
        """The least share, in steps of 0.05, with room for so many of the longest sequences."""
        wanted = self.weights + ENGINE_WORKSPACE + sequences * self.token * self.context
        return -(-wanted * 20 // device) / 20
