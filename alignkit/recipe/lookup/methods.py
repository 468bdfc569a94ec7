"""The shelf's recipes for anyone's model and data: one for each method."""

from __future__ import annotations

from alignkit.recipe.lookup.find import list_content

MARK = "model.path=MODEL"
"""In the command of a recipe that leaves the model to the command line."""


def methods() -> list[str]:
    """The recipes that leave model and data open."""
    return [found.name for found in list_content("recipes") if found.is_shipped and MARK in found.path.read_text()]
