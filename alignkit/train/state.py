"""Where a run stands: a frozen value that only a finished step, and the end of a stage, turn into the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from alignkit.types.batch import Batch


@dataclass(frozen=True, kw_only=True)
class State:
    """stage, step: the next to do (step within the stage). done: steps done over all stages.

    version: updates applied to the weights. cursor: prompts (or examples) taken from the stage's endless order.
    controls: coefficients that the algorithm adapts. hooks: what each hook remembers, by its name. health: history
    behind the health rules.
    """

    stage: int = 0
    step: int = 0
    done: int = 0
    version: int = 0
    cursor: int = 0
    controls: Mapping[str, float] = field(default_factory=dict)
    hooks: Mapping[str, Any] = field(default_factory=dict)
    health: Mapping[str, Any] = field(default_factory=dict)

    def after(self, learned: Learned, *, cursor: int) -> State:
        """Once a step is done: the cursor stands where the next one goes on."""
        return replace(
            self,
            step=self.step + 1,
            done=self.done + 1,
            version=self.version + learned.updates,
            cursor=cursor,
            controls=learned.controls,
            hooks=learned.hooks,
        )

    def next_stage(self) -> State:
        """Counts go on, everything that belongs to a stage begins anew."""
        return replace(self, stage=self.stage + 1, step=0, cursor=0, controls={}, hooks={})


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What one step made of its data. batch: what was trained on, None where nothing was. updates: applied to the
    policy's weights. controls, hooks: as in State, after it."""

    controls: Mapping[str, float]
    hooks: Mapping[str, Any]
    batch: Batch | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    updates: int = 0
