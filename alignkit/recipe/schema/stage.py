"""What a recipe may say of one training phase."""

from __future__ import annotations

from typing import Any

from alignkit.recipe.schema.data import Data
from alignkit.recipe.schema.rewards import RewardSpec
from alignkit.recipe.schema.rollouts import Environment, Replay, Rollouts
from alignkit.recipe.schema.section import Section
from alignkit.recipe.schema.train import Constraint, Critic, Optimizer, Train


class Stage(Section):
    """One training phase. A recipe without `stages` has exactly one, made of its top-level sections."""

    name: str = "main"
    data: Data
    rewards: tuple[RewardSpec, ...] = ()
    environment: Environment | None = None
    rollouts: Rollouts = Rollouts()
    replay: Replay | None = None
    constraints: tuple[Constraint, ...] = ()
    critic: Critic | None = None
    algorithm: dict[str, Any]
    """`type` names a file of alignkit/algorithms (or `./file.py:NAME`); the other keys are that file's Config."""
    optimizer: Optimizer
    train: Train
