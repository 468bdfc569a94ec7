"""The models that a recipe names, each with the key that names it, and which of them are not there yet."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from alignkit.errors import ContentError, RecipeError
from alignkit.models.load import locate
from alignkit.recipe.lookup.made_by import made_by
from alignkit.recipe.schema import Recipe, Stage


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model under the `key` of a recipe. kind: of the input that it is to a run (train/inputs.py)."""

    key: str
    kind: str
    path: str
    revision: str | None = None


def named_models(recipe: Recipe) -> Iterator[NamedModel]:
    """The policy's, the reference, critics and guides, as far as they have a path."""
    if recipe.model.path:
        yield NamedModel("model.path", "model", recipe.model.path, recipe.model.revision)
    if recipe.reference and recipe.reference.path:
        yield NamedModel("reference.path", "reference", recipe.reference.path)
    for number, stage in enumerate(recipe.stages):
        if stage.critic and stage.critic.path:
            yield NamedModel(stage_key(recipe, number, "critic.path"), "model", stage.critic.path)
        if stage.rollouts.guide:
            yield NamedModel(stage_key(recipe, number, "rollouts.guide"), "model", stage.rollouts.guide)


def stage_key(recipe: Recipe, number: int, key: str) -> str:
    """A stage's key as a recipe has it: at the top where there is one stage alone."""
    return key if len(recipe.stages) == 1 else f"stages.{number}.{key}"


@contextlib.contextmanager
def under(key: str) -> Generator[None]:
    """Whatever looks for a model takes it for `model.path`: its errors get the key that named it."""
    try:
        yield
    except ContentError as error:
        raise ContentError(f"{key}: {str(error).removeprefix('model.path: ')}") from error


def check_models(recipe: Recipe) -> None:
    """Raises RecipeError with a line for each model that is not there, with the command that makes it if a recipe does.

    A hub id is taken to be there. Of rewards' options those are looked at that a recipe's run would leave behind.
    """
    beside = recipe.file.parent if recipe.file else None
    problems = []
    for one in named_models(recipe):
        try:
            with under(one.key):
                locate(one.path, beside)
        except ContentError as error:
            problems.append(str(error))
    for number, stage in enumerate(recipe.stages):
        problems += [f"{stage_key(recipe, number, key)}: {problem}" for key, problem in _rewards(stage)]
    if problems:
        raise RecipeError(problems)


def _rewards(stage: Stage) -> Iterator[tuple[str, str]]:
    for number, spec in enumerate(stage.rewards):
        for name, value in spec.options.items():
            for text in value if isinstance(value, list) else [value]:
                maker = made_by(text) if isinstance(text, str) and not Path(text).expanduser().is_dir() else None
                if maker:
                    cure = f"it is what a recipe leaves behind: run `{maker}` first"
                    yield f"rewards.{number}.options.{name}", f"no folder {text}; {cure}"
