"""Every setting that was renamed: its older name is read as the newer one, and one line says how it is called now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import pytest

from alignkit.errors import RecipeError
from alignkit.recipe.identity import recipe_hash
from alignkit.recipe.lookup.find import list_content, load
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Recipe, Rollouts, Stage
from tests.resume.test_every_algorithm import write

ALGORITHMS = {found.name: load(found) for found in list_content("algorithms")}
CASES = [
    *((name, "algorithm", old) for name, algorithm in ALGORITHMS.items() for old in algorithm.config.renamed),
    *(("grpo", "rollouts", old) for old in Rollouts.renamed),
]
OPPOSITE = "not "


def others(model: Any, path: list[str], default: Any) -> Iterator[Any]:
    """Values that a setting may have instead of its default; the recipe's rules may refuse some."""
    for part in path[:-1]:
        model = model.model_fields[part].annotation
    if isinstance(default, bool):
        yield not default
    if isinstance(default, list | tuple):
        yield [2 * one for one in default]
    yield from (one for one in get_args(model.model_fields[path[-1]].annotation) if isinstance(one, str))
    yield from (one for one in (0.5, 0.25, 2, 1.5, 0.1) if one != default)


def at(section: Any, path: list[str]) -> Any:
    return reduce(lambda node, part: node[part] if isinstance(node, dict) else getattr(node, part), path, section)


def settings(recipe: Recipe, section: str) -> Any:
    stage: Stage = recipe.stages[-1]
    return getattr(stage, section)


@pytest.mark.parametrize(("name", "section", "old"), CASES)
def test_an_older_name_means_the_newer_one_and_one_line_says_so(tmp_path: Path, caplog, name, section, old):
    algorithm = ALGORITHMS[name]
    model = algorithm.config if section == "algorithm" else Rollouts
    new = model.renamed[old]
    opposite, path = new.startswith(OPPOSITE), new.removeprefix(OPPOSITE).split(".")
    file = write(tmp_path, name, kind_of(algorithm.source))
    default = at(settings(read_recipe(file), section), path)
    dotted = ".".join(path)
    for value in others(model, path, default):
        try:
            wanted = read_recipe(file, [f"{section}.{dotted}={json.dumps(value)}"])
        except RecipeError:
            continue
        if at(settings(wanted, section), path) != default:
            break
    else:
        pytest.fail(f"no other value for {dotted} was found")
    assert caplog.messages == []
    got = read_recipe(file, [f"{section}.{old}={json.dumps(not value if opposite else value)}"])
    assert recipe_hash(got) == recipe_hash(wanted) != recipe_hash(read_recipe(file))
    told = f", its opposite ({json.dumps(value)})" if opposite else ""
    assert caplog.messages == [
        f"<command line>:1: {section}.{old}: is now '{section}.{dotted}'{told}; the older key is still read"
    ]


def test_no_older_name_is_a_setting_of_today():
    for model in [Rollouts, *(algorithm.config for algorithm in ALGORITHMS.values())]:
        assert not model.renamed.keys() & model.model_fields.keys(), model
