"""How many steps the epochs of given data are, which only its rows can tell."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.errors import RecipeError
from alignkit.recipe.schema import Recipe
from alignkit.run.train.build import Policy
from alignkit.run.train.build_data import build_offline


def counted_steps(recipe: Recipe, policy: Policy) -> list[int | None]:
    """Steps of each stage that gives epochs in their place, ceil(epochs x rows / batch); None of the others.

    The last step is filled up with the first rows of the next pass. Raises RecipeError when a warm-up would not end,
    and all that reading the rows may raise.
    """
    found: list[int | None] = []
    for stage in recipe.stages:
        if stage.train.steps is not None:
            found.append(None)
            continue
        rows = len(build_offline(stage, policy, recipe=recipe, report=lambda message: None).order.examples)
        steps = -(-stage.train.epochs * rows // (stage.train.batch or 1))
        if stage.optimizer.warmup_steps >= steps:
            raise RecipeError(
                f"optimizer.warmup_steps: {stage.optimizer.warmup_steps:g} steps of warm-up, and {stage.train.epochs} "
                f"passes over {rows} rows are {steps} steps: lower it (below 1 it is a share of them)"
            )
        found.append(steps)
    return found


def with_steps(recipe: Recipe, steps: Sequence[int | None]) -> Recipe:
    """The recipe with the steps that were counted."""
    stages = [
        stage if count is None else stage.model_copy(update={"train": stage.train.model_copy(update={"steps": count})})
        for stage, count in zip(recipe.stages, steps, strict=True)
    ]
    return recipe.model_copy(update={"stages": tuple(stages)})
