"""Older keys and values of recipes: still read, wherever they stand, and answered by one line that has the new name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.errors import RecipeError
from alignkit.recipe.document import Document
from alignkit.recipe.identity import difference, recipe_hash
from alignkit.recipe.read import dump_recipe, read_recipe
from alignkit.recipe.renamed import modernise
from alignkit.recipe.schema import Data, Optimizer, Rollouts, Stage
from alignkit.run.train.start import _recipe_of

NEW = """\
model: {scratch: {}}
data: {source: generator:arithmetic}
optimizer: {lr: 1e-3, weight_decay: 0.5}
train: {steps: 7}
rewards: [{name: exact_match}]
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 8}
algorithm: {type: ./mine.py, inner: {strength: 2.0}}
"""
OLD = NEW.replace("weight_decay", "decay").replace("inner: {strength: 2.0}", "power: 2.0").replace("hf", "slow")
MINE = """\
from dataclasses import replace
from alignkit.algorithms.rollouts import grpo
from alignkit.recipe.schema import Section

class Inner(Section):
    strength: float = 1.0

class Config(grpo.Config):
    renamed = {"power": "inner.strength"}
    inner: Inner = Inner()

ALGORITHM = replace(grpo.ALGORITHM, config=Config)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Optimizer, "renamed", {"decay": "weight_decay"})
    monkeypatch.setattr(Rollouts, "renamed_values", {"engine": {"slow": "hf"}})
    monkeypatch.setattr(Data, "renamed", {"kept_out": "holdout"})
    write("mine.py", MINE)
    return tmp_path


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def read(text: str, *overrides: str):
    return read_recipe(write("r.yaml", text), overrides)


def test_a_recipe_with_older_keys_is_the_same_recipe_and_each_is_told_with_its_line(caplog):
    older, newer = read(OLD), read(NEW)
    assert recipe_hash(older) == recipe_hash(newer)
    assert older.stages == newer.stages
    assert caplog.messages == [
        "r.yaml:3: optimizer.decay: is now 'optimizer.weight_decay'; the older key is still read",
        "r.yaml:6: rollouts.engine: 'slow' is now 'hf'; the older name is still read",
        "r.yaml:7: algorithm.power: is now 'algorithm.inner.strength'; the older key is still read",
    ]


def test_of_several_processes_the_first_one_says_it(monkeypatch, caplog):
    for rank, lines in (("1", 0), ("0", 3)):
        monkeypatch.setenv("RANK", rank)
        read(OLD)
        assert len(caplog.messages) == lines


def test_a_recipe_of_today_is_told_nothing(caplog):
    read(NEW)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "override",
    ["algorithm.power=3", "algorithm={type: ./mine.py, power: 3}", "algorithm.inner={strength: 3}"],
)
@pytest.mark.parametrize("text", [OLD, NEW])
def test_on_the_command_line_an_older_key_replaces_what_the_file_says_under_either_name(override, text):
    assert read(text, override).stages[0].algorithm["inner"] == {"strength": 3.0}


def test_an_older_value_may_stand_on_the_command_line(caplog):
    assert read(NEW, "rollouts.engine=slow").stages[0].rollouts.engine == "hf"
    assert caplog.messages == ["<command line>:1: rollouts.engine: 'slow' is now 'hf'; the older name is still read"]


@pytest.mark.parametrize("key", ["power", "inner.strength"])
def test_a_recipe_that_extends_another_wins_over_it_whichever_of_the_two_is_older(key):
    write("base.yaml", NEW if key == "power" else OLD)
    value = "{inner: {strength: 5}}" if "." in key else "{power: 5}"
    stage = read(f"extends: ./base.yaml\nalgorithm: {value}\n").stages[0]
    assert stage.algorithm["inner"] == {"strength": 5.0}


def test_a_stage_may_say_its_older_key_without_its_type_which_stands_above_or_in_the_extended_recipe():
    stages = "stages:\n  - name: one\n    algorithm: {power: 4}\n  - name: two\n    optimizer: {decay: 0.25}\n"
    for recipe in (read(NEW + stages), read(f"extends: {write('./base.yaml', NEW)}\n{stages}")):
        one, two = recipe.stages
        assert (one.algorithm["inner"]["strength"], two.algorithm["inner"]["strength"]) == (4.0, 2.0)
        assert (one.optimizer.weight_decay, two.optimizer.weight_decay) == (0.5, 0.25)
    named = f"extends: ./r.yaml\n{stages.replace('power: 4', 'power: 6')}"
    assert read_recipe(write("third.yaml", named)).stages[0].algorithm["inner"]["strength"] == 6.0
    assert read_recipe("third.yaml", ["stages.1.algorithm.power=8"]).stages[1].algorithm["inner"]["strength"] == 8.0


def test_both_names_at_once_are_refused_at_the_older_one():
    with pytest.raises(RecipeError) as caught:
        read(NEW.replace("lr: 1e-3", "lr: 1e-3,\n  decay: 0.1"))
    assert caught.value.problems == [
        "r.yaml:4: optimizer.decay: is the older name of 'optimizer.weight_decay', which stands here too; "
        "leave one of them out"
    ]


def test_a_wrong_value_is_located_under_the_name_that_was_written():
    with pytest.raises(RecipeError) as caught:
        read(OLD.replace("0.5", "-1"))
    assert caught.value.problems == ["r.yaml:3: optimizer.decay: must be at least 0; got -1"]


def test_a_key_can_move_from_one_section_of_a_stage_to_another(monkeypatch):
    monkeypatch.setattr(Stage, "renamed", {"rollouts.rows": "data.limit"})
    assert read(NEW, "rollouts.rows=9").stages[0].data.limit == 9
    stage = read(NEW.replace("group: 4", "group: 4, rows: 5")).stages[0]
    assert (stage.data.limit, stage.rollouts.group) == (5, 4)


def test_sections_in_lists_and_mappings_are_looked_into_too():
    text = NEW.replace("{source: generator:arithmetic}", "{source: generator:arithmetic, kept_out: 3}")
    recipe = read(text + "evaluation: {data: {source: generator:arithmetic, kept_out: 1}}\n", "evaluation.limit=2")
    assert (recipe.stages[0].data.holdout, recipe.evaluation.data.holdout) == (3, 1)


GRPO = NEW.replace("./mine.py, inner: {strength: 2.0}", "grpo, loss: {kl: loss, kl_weight: 0.1, clip_high: 0.3}")
FLAT = NEW.replace("./mine.py, inner: {strength: 2.0}", "grpo, kl: loss, kl_weight: 0.1, clip_high: 0.3")


def test_the_settings_of_grpos_loss_are_read_where_they_once_stood(caplog):
    assert recipe_hash(read(FLAT)) == recipe_hash(read(GRPO))
    assert [line.partition(";")[0] for line in caplog.messages] == [
        f"r.yaml:7: algorithm.{name}: is now 'algorithm.loss.{name}'" for name in ("clip_high", "kl", "kl_weight")
    ]
    assert read(FLAT.replace("grpo", "rloo").replace("kl: loss, kl_weight: 0.1, clip_high", "clip")) == read(
        GRPO.replace("grpo", "rloo").replace("kl: loss, kl_weight: 0.1, clip_high", "clip")
    )
    with pytest.raises(RecipeError, match=r"r.yaml:7: algorithm.clip_high: must be greater than 0; got 0$"):
        read(FLAT.replace("0.3", "0"))


def test_a_checkpoint_that_was_written_with_flat_keys_is_of_the_same_recipe(folder):
    recipe = read(GRPO)
    tree = json.loads(dump_recipe(recipe))
    algorithm = tree["stages"][0]["algorithm"]
    algorithm.update(algorithm.pop("loss"))
    (folder / "recipe.json").write_text(json.dumps(tree))
    assert difference(_recipe_of(folder, beside=folder), recipe) == []
    algorithm["clip_high"] = 0.5
    (folder / "recipe.json").write_text(json.dumps(tree))
    [told] = difference(_recipe_of(folder, beside=folder), recipe)
    assert told == "stages.0.algorithm.loss.clip_high: 0.5 -> 0.3"


def test_what_a_checkpoint_says_of_its_recipe_is_made_modern_without_a_word():
    tree = {"stages": [{"optimizer": {"decay": 1}, "algorithm": {"type": "./mine.py", "power": 3}}]}
    modernise(Document(tree), beside=Path())
    assert tree["stages"][0] == {
        "optimizer": {"weight_decay": 1},
        "algorithm": {"type": "./mine.py", "inner": {"strength": 3}},
    }
