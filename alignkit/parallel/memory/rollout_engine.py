"""What a rollout engine holds on the device that it shares with the first trainer."""

from __future__ import annotations

from dataclasses import dataclass

from alignkit.parallel.memory.trace import Held

ENGINE_WORKSPACE = 2 * 10**9
"""Bytes that vLLM needs beside weights and cache, for activations and logits of what it reads at once: assumed."""
ASLEEP = 10**9
"""Bytes that a sleeping vLLM keeps, of its context and its graphs: assumed, not measured."""
ENGINE_PROCESS = "engine process"
"""Role of what it keeps asleep; awake that is a part of its share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmShare:
    """vLLM takes a fixed share of the device and fills what its weights leave with keys and values. It keeps the share,
    or sleeps while the trainer trains (level 2: neither weights nor cache are kept anywhere).

    share: `rollouts.gpu_memory_fraction`. weights: bytes. token: of a token's keys and values. context: tokens of the
    longest sequence.
    """

    share: float
    weights: int
    token: int
    context: int
    sleeps: bool = False

    def held(self, device: int, phase: str) -> Held:
        """On a device of so many bytes, in one of the trainer's phases.

        One that sleeps wakes its weights to get the trainer's (sync), and its cache when the trainer's proof is done:
        from then on it samples.
        """
        weights = {"engine weights": self.weights}
        if not self.sleeps or phase == "sample":
            return weights | {"engine cache": max(0, round(self.share * device) - self.weights)}
        return {ENGINE_PROCESS: ASLEEP} | (weights if phase == "sync" else {})

    def sequences(self, device: int) -> int:
        """How many of the longest sequences its cache has room for at once; 0: it does not start."""
        room = round(self.share * device) - self.weights - ENGINE_WORKSPACE
        return max(0, room // (self.token * self.context))

    def smallest(self, device: int, sequences: int) -> float:
        """The least share, in steps of 0.05, with room for so many of the longest sequences."""
        wanted = self.weights + ENGINE_WORKSPACE + sequences * self.token * self.context
        return -(-wanted * 20 // device) / 20
