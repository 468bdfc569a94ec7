"""`alignkit explain`: what a recipe really optimises."""

from __future__ import annotations

import typer

from alignkit.cli.output import JsonOption, OverridesArgument, RecipeArgument, print_json
from alignkit.recipe.explain import explain_recipe
from alignkit.recipe.read import read_recipe


def explain(recipe: RecipeArgument, overrides: OverridesArgument = None, as_json: JsonOption = False) -> None:
    """Say in words what a recipe optimises, from what, in how many steps, and which settings are defaults."""
    explanation = explain_recipe(read_recipe(recipe, overrides or ()))
    if as_json:
        print_json(explanation)
    else:
        typer.echo("\n".join(line for stage in explanation["stages"] for line in stage["text"]))
