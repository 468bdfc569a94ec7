"""What a run tells its rewards about itself and its data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Training:
    """One stage of a run, as TRL's reward functions see it.

    updates: optimizer steps of the stage. before: those of the stages before it. passes: over the stage's rows in all
    of its steps. columns: names that any row of the data has. save_every, evaluate_every: in optimizer steps, or None.
    """

    updates: int
    before: int = 0
    passes: float = 1.0
    columns: tuple[str, ...] = ()
    save_every: int | None = None
    evaluate_every: int | None = None

    def trainer_state(self, version: int) -> dict[str, Any]:
        """The fields of transformers' TrainerState that are known when weights after `version` updates have sampled.

        Steps are optimizer steps of this stage, as under a trainer that runs nothing else.
        """
        done = max(version - self.before, 0)
        return {
            "global_step": done,
            "max_steps": self.updates,
            "epoch": self.passes * done / self.updates,
            "num_train_epochs": math.ceil(self.passes),
            "logging_steps": 1,
            "save_steps": self.save_every,
            "eval_steps": self.evaluate_every,
        }

    def fill(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """A row's columns with None for those that only other rows have, as in a table."""
        return {**dict.fromkeys(self.columns), **columns}
