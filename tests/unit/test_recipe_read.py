"""Reading recipes: overrides, extends, stages, the line of every mistake, and what decides a resume."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alignkit.errors import ContentError, RecipeError
from alignkit.recipe.explain import batch_equation, explain_recipe
from alignkit.recipe.identity import difference, recipe_hash
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.read import dump_recipe, read_recipe, resolve_algorithm

BASE = """\
model:
  scratch: {hidden: 32, heads: 4}
data:
  source: generator:arithmetic
  holdout: 5
rewards:
  - name: exact_match
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 8}
algorithm:
  type: grpo
  loss: {clip_high: 0.28}
optimizer:
  lr: 1e-5
train:
  steps: 3
"""

STAGED = """\
model:
  scratch: {}
data:
  source: generator:arithmetic
optimizer:
  lr: 1e-3
train:
  steps: 7
rollouts: {engine: hf, max_new_tokens: 8}
stages:
  - name: first
    algorithm: {type: sft}
    train: {steps: 2, batch: 4}
  - name: second
    algorithm: {type: grpo}
    rewards: [{name: exact_match}]
    optimizer: {lr: 1e-4}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "r.yaml") -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return name


def problems(source: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read_recipe(source, overrides)
    return caught.value.problems


def test_numbers_are_read_as_yaml_1_2_and_defaults_are_filled_in(folder):
    recipe = read_recipe(write(folder, BASE + "run: no\n"))
    stage = recipe.stages[0]
    assert stage.optimizer.lr == 1e-5
    assert recipe.run == "no"
    assert (stage.name, stage.rollouts.temperature, stage.train.epochs) == ("main", 1.0, 1)
    assert stage.algorithm["loss"]["clip_high"] == 0.28
    assert stage.algorithm["loss"]["clip_low"] == 0.2
    assert recipe.file == folder / "r.yaml"


def test_the_algorithm_of_a_stage_comes_with_its_checked_config(folder):
    recipe = read_recipe(write(folder, BASE))
    algorithm, config = resolve_algorithm(recipe.stages[0], recipe)
    assert algorithm.source == "rollouts"
    assert config.model_dump()["loss"]["clip_high"] == 0.28


def test_an_algorithm_may_be_a_file_beside_the_recipe(folder):
    write(folder, (Path(__file__).parents[2] / "alignkit/algorithms/sft.py").read_text(), "mine.py")
    text = BASE.replace("type: grpo\n  loss: {clip_high: 0.28}", "type: ./mine.py:ALGORITHM").replace(
        "rewards:\n  - name: exact_match\n", ""
    )
    recipe = read_recipe(write(folder, text), ["train.batch=2"])
    assert resolve_algorithm(recipe.stages[0], recipe)[0].source == "sft"


@pytest.mark.parametrize(
    ("override", "value"),
    [("train.steps=9", 9), ("optimizer.lr=2e-6", 2e-6), ("optimizer.betas=[0.9, 0.95]", (0.9, 0.95))],
)
def test_an_override_replaces_a_setting_and_its_value_is_yaml(folder, override, value):
    stage = read_recipe(write(folder, BASE), [override]).stages[0]
    section, name = override.partition("=")[0].split(".")
    assert getattr(getattr(stage, section), name) == value


def test_overrides_reach_list_items_and_make_missing_sections(folder):
    recipe = read_recipe(
        write(folder, BASE), ["rewards.0.weight=0.5", "evaluation.limit=3", "reference=null", "run=a=b", "run=x"]
    )
    assert recipe.stages[0].rewards[0].weight == 0.5
    assert recipe.evaluation is not None
    assert recipe.evaluation.limit == 3
    assert recipe.run == "x"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "optimizer.name=adamw",
            "<command line>:1: optimizer.name: is not a setting; the settings here are lr, schedule, warmup_steps, "
            "final_lr_fraction, betas, eps, weight_decay, max_grad_norm, moments",
        ),
        (
            "train.lr=3",
            "<command line>:1: train.lr: is not a setting here (did you mean 'optimizer.lr' or 'constraints.lr'?)",
        ),
        ("train.stepz=3", "<command line>:1: train.stepz: is not a setting (did you mean 'steps'?)"),
        ("steps", "<command line>:1: 'steps' is not an override; write key=value"),
        ("extends=quickstart", "<command line>:1: extends: belongs in a recipe file; overrides only replace settings"),
        ("rewards.4.weight=1", "<command line>:1: rewards.4.weight: 'rewards' is a list of 1; there is no item '4'"),
        (
            "stages.sft.algorithm.beta=0",
            "<command line>:1: stages.sft.algorithm.beta: wants a list; got a mapping (sft)",
        ),
        ("train.steps.x=1", "<command line>:1: train.steps.x: 'train.steps' is a value, not a section"),
        ("seed={", "<command line>:1: seed: not valid YAML"),
        ("train.batch=x", "<command line>:1: train.batch: wants a whole number"),
    ],
)
def test_a_wrong_override_is_located_on_the_command_line(folder, override, problem):
    assert problems(write(folder, BASE), override)[0].startswith(problem)


def test_mistakes_in_the_file_and_on_the_command_line_are_reported_together(folder):
    text = BASE.replace("holdout", "holdot").replace("lr:", "rate:")
    found = problems(write(folder, text), "nonsense", "train.steps=-1")
    assert [line.partition(": ")[0] for line in found] == [
        "<command line>:1",
        "<command line>:2",
        "r.yaml:5",
        "r.yaml:12",
        "r.yaml:13",
    ]


def test_extends_lays_a_recipe_over_another_and_each_error_names_its_own_file(folder):
    write(folder, BASE, "base.yaml")
    child = "extends: ./base.yaml\ntrain: {steps: 8}\nalgorithm: {loss: {clip_high: 0.4}}\n"
    recipe = read_recipe(write(folder, child))
    assert recipe.stages[0].train.steps == 8
    assert recipe.stages[0].algorithm["loss"]["clip_high"] == 0.4
    assert recipe.stages[0].optimizer.lr == 1e-5
    write(folder, BASE.replace("lr: 1e-5", "lr: fast"), "base.yaml")
    found = problems(write(folder, child.replace("steps", "step")))
    assert found == [
        "base.yaml:13: optimizer.lr: wants a number; got 'fast'",
        "r.yaml:2: train.step: is not a setting (did you mean 'steps'?)",
    ]


def test_recipes_of_a_list_are_laid_over_one_another_in_its_order(folder):
    write(folder, BASE, "base.yaml")
    write(folder, "model: {path: gpt2, scratch: null}\ntrain: {steps: 7}\n", "parts/model.yaml")
    write(folder, "extends: ./model.yaml\noptimizer: {lr: 2e-5}\n", "parts/more.yaml")
    recipe = read_recipe(write(folder, "extends: [./base.yaml, ./parts/more.yaml]\nseed: 4\n"))
    assert (recipe.model.path, recipe.stages[0].train.steps, recipe.stages[0].optimizer.lr, recipe.seed) == (
        "gpt2",
        7,
        2e-5,
        4,
    )
    assert recipe.stages[0].algorithm["type"] == read_recipe("base.yaml").stages[0].algorithm["type"]
    found = problems(write(folder, "extends: [./base.yaml, ./nothing.yaml]\n"))
    assert [(line[:18], line[-38:]) for line in found] == [
        ("r.yaml:1: extends:", "nothing.yaml: there is no such recipe file"[-38:])
    ]


def test_extends_with_another_algorithm_starts_its_section_anew(folder):
    write(folder, BASE, "base.yaml")
    child = "extends: ./base.yaml\nalgorithm: {type: sft}\nrewards: []\ntrain: {batch: 2}\n"
    assert "loss" not in read_recipe(write(folder, child)).stages[0].algorithm


def test_a_list_is_replaced_as_a_whole_and_its_errors_point_to_the_new_list(folder):
    write(folder, BASE, "base.yaml")
    found = problems(write(folder, "extends: ./base.yaml\nrewards:\n  - weight: 2\n"))
    assert found == [line for line in found if line.startswith("r.yaml:3: rewards.0.name: is missing")]


def test_paths_in_a_base_hold_from_the_folder_of_the_base(folder):
    write(folder, '"""Mine."""\n\n\ndef judge(completion, task):\n    return 1\n', "shared/judge.py")
    write(folder, BASE.replace("exact_match", "./judge.py:judge"), "shared/base.yaml")
    recipe = read_recipe(write(folder, "extends: ../shared/base.yaml\n", "mine/r.yaml"))
    assert recipe.stages[0].rewards[0].name == "./../shared/judge.py:judge"


def test_paths_on_the_command_line_hold_from_the_working_folder(folder):
    write(folder, "def judge(completion, task):\n    return 1\n", "judge.py")
    recipe = read_recipe(write(folder, BASE, "deep/r.yaml"), ["rewards.0.name=./judge.py:judge"])
    assert recipe.stages[0].rewards[0].name == "./../judge.py:judge"


def test_recipes_that_extend_one_another_are_refused_at_the_closing_link(folder):
    write(folder, "extends: ./b.yaml\n", "a.yaml")
    write(folder, "\nextends: ./c.yaml\n", "b.yaml")
    write(folder, "\n\nextends: ./a.yaml\n", "c.yaml")
    assert problems("a.yaml") == [
        "c.yaml:3: extends: recipes extend one another in a circle: a.yaml -> b.yaml -> c.yaml -> a.yaml"
    ]


def test_stages_lie_over_the_sections_at_the_top(folder):
    recipe = read_recipe(write(folder, STAGED))
    first, second = recipe.stages
    assert [stage.name for stage in recipe.stages] == ["first", "second"]
    assert (first.train.steps, first.train.batch, first.optimizer.lr) == (2, 4, 1e-3)
    assert (second.train.steps, second.train.batch, second.optimizer.lr) == (7, None, 1e-4)
    assert first.data == second.data


def test_errors_of_a_merged_stage_point_to_where_the_key_really_stands(folder):
    text = STAGED.replace("source: generator:arithmetic", "source: generator:arithmetic\n  shufle: true").replace(
        "optimizer: {lr: 1e-4}", "optimizer: {lr: 1e-4, eps: x}"
    )
    assert problems(write(folder, text)) == [
        "r.yaml:5: data.shufle: is not a setting (did you mean 'shuffle'?)",  # once, not once per stage
        "r.yaml:18: stages.1.optimizer.eps: wants a number; got 'x'",
    ]


def test_what_a_stage_lacks_is_reported_at_the_stage(folder):
    text = STAGED.replace("optimizer:\n  lr: 1e-3\n", "").replace("    train: {steps: 2, batch: 4}\n", "")
    assert problems(write(folder, text)) == [
        "r.yaml:9: stages.0.optimizer: is missing",
    ]


def test_rules_between_settings_are_located_in_the_stage_that_breaks_them(folder):
    text = STAGED.replace("train: {steps: 2, batch: 4}", "train: {steps: 2}").replace("max_new_tokens: 8", "group: 1")
    found = problems(write(folder, text))
    assert "r.yaml:13: stages.0.train.batch: is missing; sft needs the number of rows per step" in found
    assert any(line.startswith("r.yaml:15: stages.1.algorithm: grpo compares rollouts") for line in found)


def test_an_override_of_a_shared_section_holds_for_every_stage(folder):
    name = write(folder, STAGED)
    everywhere = read_recipe(name, ["train.steps=5"])
    assert [stage.train.steps for stage in everywhere.stages] == [5, 5]
    only_second = read_recipe(name, ["stages.1.train.steps=4"])
    assert [stage.train.steps for stage in only_second.stages] == [2, 4]
    assert read_recipe(name, ["optimizer.lr=1"]).stages[1].optimizer.lr == 1


def test_the_hash_ignores_where_and_how_fast_a_run_goes_but_not_what_it_computes(folder):
    name = write(folder, BASE.replace("lr: 1e-5", "lr: 1e-5\n  schedule: cosine"))
    original = recipe_hash(read_recipe(name))
    for same in ("run=x", "tracker=trackio", "checkpoints.every=1", "train.micro_batch_tokens=64", "launch=zero2"):
        assert recipe_hash(read_recipe(name, [same])) == original
    for same in ("rollouts.reward_workers=1", "health.dead_steps=3", "optimizer.eps=1e-8"):
        assert recipe_hash(read_recipe(name, [same])) == original
    for other in ("seed=1", "train.steps=4", "rollouts.group=2", "algorithm.loss.clip_low=0.1", "model.dtype=float32"):
        assert recipe_hash(read_recipe(name, [other])) != original


def test_a_run_with_a_constant_schedule_may_be_made_longer(folder):
    name = write(folder, BASE)
    assert difference(read_recipe(name), read_recipe(name, ["train.steps=30"])) == []
    cosine = "optimizer.schedule=cosine"
    assert difference(read_recipe(name, [cosine]), read_recipe(name, [cosine, "train.steps=30"])) == [
        "stages.0.train.steps: 3 -> 30"
    ]


def test_the_difference_names_each_setting_with_both_values(folder):
    name = write(folder, BASE)
    changed = read_recipe(name, ["optimizer.lr=2e-5", "data.options={digits: 2}", "reference=null"])
    assert difference(read_recipe(name), changed) == [
        "stages.0.data.options: a mapping () -> absent",
        "stages.0.data.options.digits: absent -> 2",
        "stages.0.optimizer.lr: 1e-05 -> 2e-05",
    ]


@pytest.mark.parametrize("text", [BASE, STAGED], ids=["one stage", "two stages"])
def test_a_dumped_recipe_reads_back_with_the_same_hash(folder, text):
    recipe = read_recipe(write(folder, text))
    (folder / "resolved.json").write_text(dump_recipe(recipe))
    again = read_recipe("resolved.json")
    assert recipe_hash(again) == recipe_hash(recipe)
    assert again.model_dump(exclude={"file"}) == recipe.model_dump(exclude={"file"})


def test_a_recipe_that_is_not_there_is_named_with_the_nearest_that_is(folder):
    write(folder, BASE, "recipes/mine.yaml")
    assert read_recipe("mine").stages[0].train.steps == 3
    with pytest.raises(ContentError, match=r"no recipe is called 'mien' \(did you mean 'mine'\?\)"):
        read_recipe("mien")
    with pytest.raises(ContentError, match="no such recipe file"):
        read_recipe("nowhere/r.yaml")


def test_the_batch_equation_of_rollouts_and_of_labelled_rows(folder):
    name = write(folder, BASE)
    stage = read_recipe(name, ["train.epochs=2", "train.minibatches=4", "train.steps=100"]).stages[0]
    equation = batch_equation(stage, kind_of("rollouts"))
    assert (equation.sequences, equation.per_update) == (4 * 4, 4)
    assert equation.optimizer_steps == 100 * 2 * 4
    assert equation.sampled_tokens == 16 * 100 * 8
    labelled = batch_equation(read_recipe(write(folder, STAGED)).stages[0], kind_of("sft"))
    assert (labelled.sequences, labelled.optimizer_steps, labelled.sampled_tokens) == (4, 2, None)
    assert str(labelled) == "4 rows a step x 2 steps = 2 optimizer steps, 8 rows"


def test_explain_says_the_objective_the_reward_and_what_has_no_effect(folder):
    name = write(folder, BASE)
    rewards = "rewards=[{name: exact_match, weight: 2}, {name: final_number}, {name: ends_with_stop, gate: true}]"
    recipe = read_recipe(name, [rewards, "optimizer.final_lr_fraction=0.1", "rollouts.refill_rounds=3"])
    stage = explain_recipe(recipe)["stages"][0]
    assert stage["reward"] == "(2 x exact_match + 1 x final_number) x ends_with_stop"
    assert stage["models"] == ["policy"]
    assert stage["without_effect"] == [
        "optimizer.final_lr_fraction (the schedule is constant)",
        "rollouts.refill_rounds (dynamic_sampling is false)",
    ]
    assert "reward centred in its group" in stage["objective"]
    with_kl = read_recipe(name, ["algorithm.loss={kl: loss, kl_weight: 0.01}", "reference={}"])
    assert explain_recipe(with_kl)["stages"][0]["models"] == ["policy", "reference"]
    assert json.dumps(explain_recipe(with_kl))


@pytest.mark.parametrize(
    "text",
    [
        'model: {"\\n": 1}',
        'seed: {"\\n": null}',
        'algorithm: {type: "gr\\npo"}',
        'rewards: [{name: "a\\nb"}]',
        '"\\n": 2',
    ],
)
def test_an_error_is_one_line_whatever_characters_a_key_or_a_name_has(tmp_path, text):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as error:
        read_recipe(file)
    assert all(re.match(r".*r\.yaml(:\d+)?: .", line) for line in str(error.value).splitlines())
