"""`extends` and stages: they meet by name, and each mistake is shown in the file in which it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.errors import RecipeError
from alignkit.recipe.document import read_document
from alignkit.recipe.overlay import overlay
from alignkit.recipe.read import dump_recipe, read_recipe

BASE = """\
model:
  scratch: {}
data:
  source: generator:arithmetic
optimizer:
  lr: 1e-3
rollouts: {engine: hf, max_new_tokens: 8}
rewards: [{name: exact_match}]
stages:
  - name: first
    algorithm: {type: sft}
    train: {steps: 2, batch: 4}
  - name: second
    algorithm: {type: grpo, loss: {clip_high: 0.4}}
    rewards: [{name: exact_match}, {name: ends_with_stop}]
    train: {steps: 7}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def over(stages: str, *, base: str = "base.yaml", name: str = "r.yaml") -> str:
    """Writes a recipe that lays these stages over another one; its stages begin in line 3."""
    Path(name).write_text(f"extends: ./{base}\nstages:\n{stages}")
    return name


def stages(*args, **options):
    return read_recipe(over(*args, **options)).stages


def problems(name: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read_recipe(name)
    return caught.value.problems


def test_a_stage_is_laid_over_the_one_of_its_name_key_by_key(folder):
    first, second = stages("  - name: second\n    train: {epochs: 3}\n    rollouts: {group: 2}\n")
    assert (second.train.steps, second.train.epochs, second.algorithm["loss"]["clip_high"]) == (7, 3, 0.4)
    assert (second.rollouts.group, second.rollouts.max_new_tokens) == (2, 8)
    assert (first.train.steps, first.train.batch, first.rollouts.group) == (2, 4, 8)


def test_new_stages_follow_those_of_the_other_recipe_whatever_order_they_are_written_in(folder):
    new = "    algorithm: {type: rloo}\n    train: {steps: 1}\n"
    found = stages(f"  - name: zeta\n{new}  - name: second\n    train: {{steps: 9}}\n  - name: alpha\n{new}")
    assert [(stage.name, stage.train.steps) for stage in found] == [
        ("first", 2),
        ("second", 9),
        ("zeta", 1),
        ("alpha", 1),
    ]


def test_in_a_stage_too_lists_are_replaced_and_another_algorithm_starts_anew(folder):
    _, second = stages("  - name: second\n    algorithm: {type: rloo}\n    rewards: [{name: final_number}]\n")
    assert [reward.name for reward in second.rewards] == ["final_number"]
    assert "clip_high" not in second.algorithm["loss"]


def test_a_stage_without_an_algorithm_is_left_out(folder):
    found = stages(
        "  - {name: first, algorithm: null}\n  - name: third\n    algorithm: {type: rloo}\n    train: {steps: 1}\n"
    )
    assert [stage.name for stage in found] == ["second", "third"]


def test_only_a_stage_that_is_there_can_be_left_out(folder):
    assert problems(over("  - {name: secnd, algorithm: null}\n")) == [
        "r.yaml:3: stages.0.algorithm: null leaves out a stage of the recipe that is extended, which has no 'secnd' "
        "(did you mean 'second'?); its stages are first, second"
    ]
    Path("alone.yaml").write_text(BASE.replace("{type: sft}", "null"))
    assert problems("alone.yaml")[0].startswith("alone.yaml:11: stages.0.algorithm: wants")


def test_a_stage_without_a_name_or_with_anothers_is_located_in_its_own_file(folder):
    nameless = over("  - train: {steps: 1}\n  - name: 7\n  - 8\n")
    assert problems(nameless) == [
        f"r.yaml:{line}: stages.{i}: has no `name`; the stages of recipes that extend one another meet by name"
        for i, line in enumerate((3, 4, 5))
    ]
    assert problems(over("  - name: second\n  - name: other\n  - name: second\n")) == [
        "r.yaml:5: stages.2: a stage called 'second' already stands in line 3; give each its own `name`"
    ]
    Path("base.yaml").write_text(BASE.replace("name: first", "name: second"))
    assert problems(over("  - name: second\n")) == [
        "base.yaml:13: stages.1: a stage called 'second' already stands in line 10; give each its own `name`"
    ]


def test_the_errors_of_a_merged_stage_stand_where_their_keys_are_written(folder):
    Path("base.yaml").write_text(BASE.replace("steps: 7", "steps: many"))
    assert problems(over("  - {name: first, algorithm: null}\n  - name: second\n    rollouts: {grup: 4}\n")) == [
        "base.yaml:16: stages.1.train.steps: wants a whole number; got 'many'",
        "r.yaml:5: stages.1.rollouts.grup: is not a setting (did you mean 'group'?)",
    ]
    Path("base.yaml").write_text(BASE)
    assert problems(over("  - name: third\n    algorithm: {type: sft}\n")) == ["r.yaml:3: stages.0.train: is missing"]


def test_stages_over_a_recipe_that_has_none_lie_over_its_sections(folder):
    Path("base.yaml").write_text(BASE[: BASE.index("stages:")])
    (only,) = stages("  - algorithm: {type: sft}\n    train: {steps: 5, batch: 2}\n")
    assert (only.name, only.train.steps, only.optimizer.lr) == ("main", 5, 1e-3)


def test_stages_meet_through_more_than_one_recipe(folder):
    over("  - {name: first, algorithm: null}\n  - name: second\n    train: {steps: 8}\n", name="middle.yaml")
    (second,) = stages("  - name: second\n    train: {epochs: 2}\n", base="middle.yaml")
    assert (second.train.steps, second.train.epochs) == (8, 2)
    found = problems(over("  - {name: first, algorithm: null}\n", base="middle.yaml"))
    assert found[0].endswith("has no 'first'; its stages are second")


def test_overrides_count_the_stages_of_the_result(folder):
    name = over("  - {name: first, algorithm: null}\n  - name: second\n")
    assert read_recipe(name, ["stages.0.train.steps=3"]).stages[0].train.steps == 3


def test_a_recipe_laid_over_itself_is_itself(folder):
    document = read_document(Path("base.yaml"), "base.yaml")
    assert overlay(document, document) == document
    assert dump_recipe(read_recipe(over("  - name: first\n  - name: second\n"))) == dump_recipe(
        read_recipe("base.yaml")
    )
