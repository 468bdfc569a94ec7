"""What a run left to talk to: its model, and how it was asked and judged in training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignkit.errors import ContentError, first_line
from alignkit.models.load import model_folder
from alignkit.recipe.document import Document
from alignkit.recipe.renamed import modernise
from alignkit.recipe.schema import Data, Recipe, RewardSpec
from alignkit.rewards.learned.reward_model import is_reward_model
from alignkit.run_folder.run_folder import RECIPE

TEMPERATURE, NEW_TOKENS = 1.0, 512


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model's folder with the settings that its answers depend on, those of the run's last stage where there is one.

    data: system message and template. rewards: as the recipe names them, none without a recipe.
    """

    name: str
    folder: Path
    data: Data
    temperature: float = TEMPERATURE
    max_new_tokens: int = NEW_TOKENS
    rewards: Sequence[RewardSpec] = ()

    @classmethod
    def find(cls, target: str) -> Trained:
        """A run's folder, or any model by folder or hub id. Raises ContentError when there is nothing to talk to."""
        run = Path(target)
        if not (run / RECIPE).is_file():
            return cls(name=target, folder=_speaks(model_folder(target)), data=Data())
        recipe, final = _recipe_of(run), run / "final"
        if not final.is_dir():
            raise ContentError(f"{run} has no final/ yet: the run has not ended; go on with it by --resume")
        stage = recipe.stages[-1]
        return cls(
            name=target,
            folder=_speaks(final),
            data=stage.data,
            temperature=stage.rollouts.temperature,
            max_new_tokens=max(stage.rollouts.max_new_tokens, NEW_TOKENS),
            rewards=stage.rewards,
        )


def _speaks(folder: Path) -> Path:
    if is_reward_model(folder):
        raise ContentError(f"{folder} is a reward model and says no words; `alignkit serve learned -o path={folder}`")
    return folder


def _recipe_of(run: Path) -> Recipe:
    """The recipe that the run wrote, in the words of today."""
    try:
        tree = json.loads((run / RECIPE).read_text(encoding="utf-8"))
        if isinstance(tree, dict):
            modernise(Document(tree), beside=None)
            tree.pop("file", None)
        return Recipe.model_validate_json(json.dumps(tree))
    except (OSError, ValueError) as error:
        raise ContentError(f"{run / RECIPE}: cannot be read: {first_line(error)}") from error
