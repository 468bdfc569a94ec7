"""Every recipe on the shelf is valid and opens with what a reader needs to know."""

from __future__ import annotations

import pytest

from alignkit.errors import RecipeError
from alignkit.recipe.explain import explain_recipe
from alignkit.recipe.lookup.find import list_content
from alignkit.recipe.read import read_recipe

SHIPPED = list_content("recipes")


@pytest.mark.parametrize("found", SHIPPED, ids=lambda found: found.name)
def test_a_shipped_recipe_is_valid_and_can_be_explained(found):
    try:
        recipe = read_recipe(found.path)
    except RecipeError as error:
        absent = [line for line in error.problems if "set ALIGNKIT_DATA to its folder" in line]
        if error.problems != absent:
            raise
        pytest.skip(f"its data file is not here: {absent[0]}")
    assert all(stage["objective"] for stage in explain_recipe(recipe)["stages"])


@pytest.mark.parametrize("found", SHIPPED, ids=lambda found: found.name)
def test_a_shipped_recipe_opens_with_command_hardware_minutes_and_expectation(found):
    head = [line for line in found.path.read_text().splitlines()[:12] if line.startswith("#")]
    for word in ("command", "hardware", "minutes", "expected"):
        assert any(line.split()[1:2] == [word] for line in head), word
