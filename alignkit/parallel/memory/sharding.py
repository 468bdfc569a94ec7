"""What one of N devices holds of what a single one would hold, by DeepSpeed's ZeRO (arXiv 1910.02054, section 5).

With P trained numbers out of A, in float32 as they are kept here, and buckets of b numbers (DeepSpeed 0.19.8,
stage_1_and_2.py and stage3.py):

    stage 1   weights 4 A                     gradients 4 P + 4 P / N + 4 b c   optimizer 12 P / N
    stage 2   weights 4 A                     gradients 4 P / N + 4 b c         optimizer 12 P / N
    stage 3   weights 4 A / N + 4 min(A, L)   gradients 4 P / N + 4 b c         optimizer 8 P / N

The optimizer's 8 are Adam's two moments; stages 1 and 2 add a copy of their share of the weights. Stage 1 keeps whole
gradients until the last micro-batch, and then copies its share of them. c is 2 where communication
overlaps with computing, else 1. L: `stage3_max_live_parameters`, which stay gathered meanwhile. Frozen weights count
with the bytes they have. Offloaded to the host are the optimizer and the gradients' shares, and the weights' shares.
Stage 3 reads a model in shards, and keeps the R bytes of one that nothing trains (a reference, a slow critic) as R / N;
what is gathered of it fits into min(A, L), of which the policy needs none meanwhile. Activations are not sharded: each
device computes a micro-batch of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignkit.parallel.memory.trace import Held

TRAINED = ("weights", "critic")
FROZEN = ("reference", "target critic")
"""Roles of the models that have an optimizer, and of those that have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """stage: 0 where nothing is cut. world: devices. bucket, live: numbers, as above."""

    stage: int = 0
    world: int = 1
    bucket: int = 0
    buckets: int = 1
    live: int = 0
    optimizer_on_host: bool = False
    weights_on_host: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None, world: int) -> Sharding:
        """settings: a launch profile's DeepSpeed file; None without one."""
        if settings is None or world == 1:
            return cls(world=world)
        zero = settings["zero_optimization"]
        return cls(
            stage=zero["stage"],
            world=world,
            bucket=int(zero.get("reduce_bucket_size", 5e8)),
            buckets=2 if zero.get("overlap_comm", zero["stage"] == 3) else 1,
            live=int(zero.get("stage3_max_live_parameters", 1e9)),
            optimizer_on_host="offload_optimizer" in zero,
            weights_on_host="offload_param" in zero,
        )

    def share(self, held: Held, *, trained: int, weights: int, phase: str) -> Held:
        """What a device holds of `held`, which a single one holds in this phase. trained, weights: P and A."""
        if self.stage == 0:
            return dict(held)
        if phase == "start":  # stage 3 reads its shards
            return {role: held[role] // (self.world if self.stage == 3 else 1) for role in TRAINED if role in held}
        shared = {role: size for role, size in held.items() if role != "gradients"}
        if self.stage == 3:
            for role in FROZEN:
                shared[role] = 0 if self.weights_on_host else held.get(role, 0) // self.world
            for role in TRAINED:
                of_one = held.get(role, 0)
                live = of_one * min(weights, self.live) // weights
                shared[role] = live + (0 if self.weights_on_host else of_one // self.world)
        copies = 8 if self.stage == 3 else 12
        shared["optimizer"] = 0 if self.optimizer_on_host else copies * trained // self.world
        if phase in ("update", "optimizer"):
            whole = 4 * trained if self.stage == 1 else 0
            shared["gradients"] = whole + (0 if self.optimizer_on_host else 4 * trained // self.world)
            shared["communication"] = 4 * self.bucket * self.buckets
        return {role: size for role, size in shared.items() if size}
