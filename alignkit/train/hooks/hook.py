"""What research adds to a step, whatever the algorithm: the loop calls every hook at five places and knows none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from alignkit.train.step import Step
from alignkit.types.batch import Batch
from alignkit.types.metric import Metric
from alignkit.types.needs import Needs

HookMemory = Mapping[str, Any]
Metrics = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Hook:
    """Does nothing at any of the places; a hook replaces those that it is about.

    It has settings and no state: what it remembers from step to step is a value of JSON that the run's State keeps
    under `name` and hands to it. Every rank holds the whole batch and calls every hook, so all must compute the same.
    """

    name: ClassVar[str]

    @property
    def needs(self) -> Needs:
        """What the loop fills in or keeps for it."""
        return Needs()

    def begin(self) -> HookMemory:
        """The memory before the stage's first step."""
        return {}

    def before_estimate(self, batch: Batch, memory: HookMemory, step: int) -> tuple[Batch, HookMemory, Metrics]:
        """(what the algorithm sees, the memory after it, metrics). step: of the stage, from 0."""
        return batch, memory, {}

    def after_estimate(self, batch: Batch) -> Batch:
        """What is trained on; fewer sequences where some are left out (`batch.select`)."""
        return batch

    def is_enough(self, metrics: Mapping[str, Metric]) -> bool:
        """Whether the policy takes no more of this step's minibatches. metrics: of its latest optimizer step."""
        return False

    def after_updates(self, step: Step, batch: Batch, lr: float) -> tuple[Metrics, int]:
        """(metrics, optimizer steps that it took) once the policy has been updated. lr: of its latest step."""
        return {}, 0

    def at_end(self, metrics: Metrics, memory: HookMemory) -> tuple[HookMemory, Metrics]:
        """(the memory after this step, what it adds to the metrics)."""
        return memory, {}
