"""The recipe schema that editors read: the present one, fits every recipe of the shelf, refuses what is no setting."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jsonschema
import pytest
from ruamel.yaml import YAML

from alignkit.recipe.lookup.editor_line import MARK, SCHEMA
from alignkit.recipe.lookup.find import find, list_content
from alignkit.recipe.settings import recipe_json_schema
from tests.unit.test_cli_verbs import alignkit, folder  # noqa: F401  fixtures

SHIPPED = list_content("recipes")
VALIDATOR = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))


def named(recipe: Path) -> Path:
    """Where the first line of a recipe leads, as yaml-language-server reads it: from its folder, or a file: address."""
    line = recipe.read_text().partition("\n")[0]
    assert line.startswith(MARK), recipe
    place = line.removeprefix(MARK)
    return Path(unquote(urlsplit(place).path)) if place.startswith("file://") else (recipe.parent / place).resolve()


def test_the_shipped_schema_is_the_present_one():
    assert json.loads(json.dumps(recipe_json_schema())) == VALIDATOR.schema, "run: make schema"


@pytest.mark.parametrize("found", SHIPPED, ids=lambda found: found.name)
def test_a_shipped_recipe_names_the_schema_in_its_first_line_and_fits_it(found):
    assert named(found.path) == SCHEMA
    assert [error.message for error in VALIDATOR.iter_errors(YAML(typ="safe").load(found.path))] == []


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("optimizer", "lrr"), 1e-5),
        (("optimizer", "lr"), "fast"),
        (("train", "steps"), 0),
        (("rollouts", "engine"), "vlm"),
        (("rewards", 0, "weigth"), 1.0),
        (("algorithm", "loss", "clip_hihg"), 0.3),
        (("algorithm", "scale"), "groups"),
        (("dta",), {}),
        (("stages",), [{"name": "grpo", "trian": {}}]),
    ],
)
def test_what_is_no_setting_or_has_no_such_value_is_refused_where_it_stands(where, value):
    recipe = YAML(typ="safe").load(find("recipes", "grpo").path)
    wrong = copy.deepcopy(recipe)
    section = wrong
    for key in where[:-1]:
        section = section[key]
    section[where[-1]] = value
    assert VALIDATOR.is_valid(recipe)
    [error] = VALIDATOR.iter_errors(wrong)
    assert where[0] == [*error.absolute_path, where[0]][0]


def test_the_name_of_a_reward_cannot_be_left_out_and_settings_of_the_command_line_can():
    assert [error.message for error in VALIDATOR.iter_errors({"rewards": [{"weight": 1}]})] == [
        "'name' is a required property"
    ]
    assert VALIDATOR.is_valid({"extends": "grpo", "optimizer": {"schedule": "cosine"}, "algorithm": {"clip_min": 1}})


@pytest.mark.parametrize("command", [["cp", "recipes/sft", "mine.yaml"], ["cp", "smoke/ipo", "mine.yaml"]])
def test_a_copied_recipe_leads_to_the_schema_from_where_it_lies(alignkit, folder, command):  # noqa: F811
    assert alignkit(*command)[0] == 0
    assert named(folder / "mine.yaml") == SCHEMA
    assert (folder / "mine.yaml").read_text().count(MARK) == 1
    shipped = find("recipes", command[1].removeprefix("recipes/")).path.read_text()
    assert (folder / "mine.yaml").read_text().partition("\n")[2] == shipped.partition("\n")[2]


def test_a_written_recipe_leads_to_the_schema_by_a_relative_path_where_the_installation_is_below_it(
    alignkit,  # noqa: F811
    folder,  # noqa: F811
    monkeypatch,
):
    given = ["--method", "sft", "--model", "smollm2-135m-instruct", "--data", "generator:arithmetic", "--lora", "0"]
    assert alignkit("init", "away.yaml", *given)[0] == 0
    assert named(folder / "away.yaml") == SCHEMA
    inside = folder / ".venv" / "a b" / "recipes" / SCHEMA.name
    monkeypatch.setattr(
        "alignkit.recipe.lookup.editor_line.SCHEMA", folder.resolve() / ".venv" / "recipes" / SCHEMA.name
    )
    assert alignkit("init", "near.yaml", *given)[0] == 0
    assert (folder / "near.yaml").read_text().startswith(f"{MARK}.venv/recipes/{SCHEMA.name}\n")
    monkeypatch.setattr("alignkit.recipe.lookup.editor_line.SCHEMA", inside)
    assert alignkit("cp", "recipes/dpo", "spaces.yaml")[0] == 0
    assert " b" not in (folder / "spaces.yaml").read_text().partition("\n")[0].removeprefix(MARK)
