"""A recipe that begins with another's model says which command makes it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from alignkit.cli.main import run
from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import list_content
from alignkit.recipe.lookup.made_by import made_by
from alignkit.recipe.read import dump_recipe, read_recipe
from alignkit.rewards.pool.lift import find_reward


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("runs/smoke-start/final", "alignkit train recipes/smoke/start.yaml run=runs/smoke-start"),
        ("runs/chains/final", "alignkit train recipes/smoke/chains.yaml"),
        ("runs/nobodys/final", None),
        ("nowhere", None),
    ],
)
def test_the_command_is_the_one_in_the_header_of_the_recipe_that_makes_it(path, command):
    assert made_by(path) == command


def test_every_shipped_recipe_that_begins_with_a_run_finds_its_maker():
    texts = {found.name: found.path.read_text() for found in list_content("recipes")}
    named = {path for text in texts.values() for path in re.findall(r"path: (runs/\S+?/final)", text)}
    assert len(named) > 4
    assert {path for path in named if made_by(path) is None} == set()


def test_a_reward_that_is_another_runs_model_names_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContentError, match=r"run `alignkit train recipes/smoke/reward-quantile\.yaml` first"):
        find_reward("learned", {"path": "runs/reward-quantile/final"})


RUN = re.compile(r"(runs/[^/\s]+)/final")
BEGINS_WITH = {found.name: found for found in list_content("recipes") if RUN.search(found.path.read_text())}


@pytest.mark.parametrize("name", BEGINS_WITH)
def test_before_another_recipes_run_check_and_train_name_each_key_and_its_command(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wanted = [
        (key, made_by(path))
        for key, path in settings(json.loads(dump_recipe(read_recipe(name))))
        if RUN.fullmatch(path) and key != "run"
    ]
    assert len(wanted) >= len(set(RUN.findall(BEGINS_WITH[name].path.read_text())))
    for verb in ("check", "train"):
        assert run([verb, name]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == len(wanted)
        for key, command in wanted:
            [line] = [
                line for line in lines if re.match(rf"(error: )?(stages\.\d\.)?{re.escape(key)}: no folder", line)
            ]
            assert f"it is what a recipe leaves behind: run `{command}` first" in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def settings(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a resolved recipe with its key, a stage's without the stage."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from settings(inner, re.sub(r"^stages\.\d+\.", "", f"{key}.{name}".strip(".")))


def test_the_error_names_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["check", "smoke/grpo"]) == 2
    assert "run `alignkit train recipes/smoke/start.yaml run=runs/smoke-start` first" in capsys.readouterr().err
