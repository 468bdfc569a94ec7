"""Every recipe on the shelf is valid and opens with what a reader needs to know."""

from __future__ import annotations

import pytest

from alignkit.errors import RecipeError
from alignkit.recipe.explain import explain_recipe
from alignkit.recipe.lookup.find import list_content
from alignkit.recipe.read import read_recipe

PARTS = [found for found in list_content("recipes") if found.name.startswith("models/")]
"""What a recipe says of a model, to be laid over that of a method."""
SHIPPED = [found for found in list_content("recipes") if found not in PARTS]
METHODS = [found for found in SHIPPED if "model.path=MODEL" in found.path.read_text()]
"""Recipes for anyone's model and data, which the command line names."""


def given(found, folder) -> list[str]:
    """What a method's or model's recipe leaves to the command line."""
    (folder / "rows.jsonl").write_text("{}\n")
    named = [f"data.source={folder / 'rows.jsonl'}"] if "data.source=FILE" in found.path.read_text() else []
    return [*(["model.path=smollm2-135m-instruct"] if found in METHODS else []), *named]


@pytest.mark.parametrize("found", SHIPPED, ids=lambda found: found.name)
def test_a_shipped_recipe_is_valid_and_can_be_explained(found, tmp_path):
    try:
        recipe = read_recipe(found.path, given(found, tmp_path))
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


def test_what_is_said_of_a_model_can_be_laid_over_another_method(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    for found in PARTS:
        (tmp_path / "mine.yaml").write_text(f"extends: [kto, {found.name}]\n")
        recipe = read_recipe(tmp_path / "mine.yaml", [f"data.source={tmp_path / 'rows.jsonl'}"])
        assert f"  path: {recipe.model.path}" in found.path.read_text()
        assert recipe.stages[0].algorithm["type"] == "kto"


def test_a_method_of_the_mission_has_a_recipe_by_its_short_name():
    names = ["sft", "dpo", "kto", "orpo", "simpo", "grpo", "ppo", "rloo", "rebel", "reward", "process-reward", "archer"]
    assert sorted(found.name for found in METHODS) == sorted(names)


@pytest.mark.parametrize("found", METHODS, ids=lambda found: found.name)
def test_a_method_without_model_and_data_says_what_is_missing_and_how_to_give_it(found):
    with pytest.raises(RecipeError) as refused:
        read_recipe(found.name)
    wanted = ["model.path=MODEL"] + (["data.source=FILE"] if found.name != "archer" else [])
    assert [word for problem, word in zip(refused.value.problems, wanted, strict=True) if word in problem] == wanted
