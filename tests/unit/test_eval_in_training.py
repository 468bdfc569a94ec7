"""`evaluation.suite`: benchmarks on the policy's own engine during training, by the runner of `alignkit eval`."""

import json

import pytest
import yaml

from alignkit.errors import DataError, RecipeError
from alignkit.evaluate.results.compare import compare_folders
from alignkit.evaluate.results.eval_folder import read_eval_folder
from alignkit.recipe.read import read_recipe
from alignkit.run.train.train import run as train

RECIPE = """
seed: 3
model: {scratch: {characters: "0123456789+=", layers: 1, hidden: 32, heads: 2, context: 12}, dtype: float32}
data:
  source: generator:arithmetic
  options: {digits: 1, style: characters}
  chat: false
  max_prompt_tokens: 6
  holdout: 10
rewards: [{name: exact_match}]
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 3, canary_tolerance: 0.001, reward_workers: 1}
algorithm: {type: grpo}
optimizer: {lr: 1e-3}
train: {steps: 2}
evaluation: {suite: ./mine.yaml, limit: 12}
health: {dead_steps: 1000}
"""
PROTOCOL = {
    "version": 1,
    "about": "one-digit sums",
    "category": "math",
    "licence": "none: generated",
    "source": {"generator": "arithmetic", "options": {"digits": 1, "style": "characters"}},
    "prompt": {"chat": False, "template": "{{prompt}}"},
    "gold": "reference",
    "sampling": {"max_new_tokens": 3},
    "metrics": {"accuracy": {"reward": "exact_match"}},
}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(PROTOCOL))
    (tmp_path / "mine.yaml").write_text("about: mine\nparts: [{protocol: ./sums.yaml}]\n")
    return tmp_path / "tiny.yaml"


def test_a_run_measures_its_suite_before_and_after_and_the_two_can_be_compared(recipe):
    run = recipe.parent / "run"
    train(read_recipe(recipe, [f"run={run}"]), resume=False)
    folders = sorted((run / "evals").iterdir())
    assert [folder.name for folder in folders] == ["step-000000", "step-000002"]
    sides = [read_eval_folder(folder) for folder in folders]
    before, after = (side.results["sums"] for side in sides)
    assert before.counts["tasks"] == after.counts["tasks"] == 12
    assert before.engine == "hf float32"
    assert before.model_hash != after.model_hash
    record = json.loads(next((run / "evaluations").glob("*-000002.json")).read_text())
    assert record["suite/sums.accuracy"] == after.metrics["accuracy"].value
    [change] = compare_folders(*sides).changes
    assert change.comparison is not None
    assert change.comparison.tasks == 12


def test_a_suite_that_does_not_exist_is_an_error_of_the_recipe_with_its_line(recipe):
    recipe.write_text(RECIPE.replace("./mine.yaml", "quikc"))
    with pytest.raises(RecipeError, match=r"tiny.yaml:15: evaluation.suite: .*did you mean 'suites/quick'"):
        read_recipe(recipe)


def test_missing_data_of_a_suite_stop_the_run_before_its_first_step(recipe):
    gone = {**PROTOCOL, "source": {"file": "gone.jsonl", "sha256": "0" * 64}}
    (recipe.parent / "sums.yaml").write_text(yaml.safe_dump(gone))
    run = recipe.parent / "run"
    with pytest.raises(DataError, match=r"sums: no data: gone.jsonl \(sha256 0000"):
        train(read_recipe(recipe, [f"run={run}"]), resume=False)
    assert not (run / "checkpoints").exists() or not any((run / "checkpoints").iterdir())
