"""What a run left to talk to: its model, and how it was asked and judged in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignkit.errors import ContentError, first_line
from alignkit.recipe.schema import Data, Recipe, RewardSpec
from alignkit.rewards.learned.reward_model import is_reward_model
from alignkit.run.export.source import Source
from alignkit.run_folder.kept_recipe import kept_recipe
from alignkit.run_folder.run_folder import RECIPE

TEMPERATURE, NEW_TOKENS = 1.0, 512


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model's folder with the settings that its answers depend on, those of the run's last stage where there is one.

    data: system message and template. rewards: as the recipe names them, none without a recipe. beside: the folder of
    that recipe, from where files of the user's own are looked for.
    """

    name: str
    folder: Path
    data: Data
    temperature: float = TEMPERATURE
    max_new_tokens: int = NEW_TOKENS
    rewards: Sequence[RewardSpec] = ()
    beside: Path | None = None

    @classmethod
    def find(cls, target: str) -> Trained:
        """A run's folder, or any model by folder or hub id. Raises ContentError when there is nothing to talk to."""
        source = Source.find(target)
        if is_reward_model(source.folder):
            raise ContentError(
                f"{source.folder} is a reward model and says no words; `alignkit serve learned -o path={source.folder}`"
            )
        if source.run is None:
            return cls(name=target, folder=source.folder, data=Data())
        recipe = _recipe_of(source.run)
        stage = recipe.stages[-1]
        return cls(
            name=target,
            folder=source.folder,
            data=stage.data,
            temperature=stage.rollouts.temperature,
            max_new_tokens=max(stage.rollouts.max_new_tokens, NEW_TOKENS),
            rewards=stage.rewards,
            beside=recipe.file.parent if recipe.file else None,
        )


def _recipe_of(run: Path) -> Recipe:
    """The recipe that the run wrote, in the words of today."""
    try:
        return kept_recipe(run / RECIPE)
    except (OSError, ValueError) as error:
        raise ContentError(f"{run / RECIPE}: cannot be read: {first_line(error)}") from error
