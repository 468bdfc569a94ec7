"""Environments in recipes: what is refused and why, what `check` and `explain` say, and whole small runs."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from alignkit.errors import ContentError, RecipeError
from alignkit.recipe.explain import explain_recipe
from alignkit.recipe.read import read_recipe
from alignkit.run.check.preflight import preflight
from alignkit.run.train.train import run as train
from alignkit.run_folder.run_folder import step_of
from tests.resume.runs import fingerprint

RECIPE = """
seed: 3
model:
  scratch: {characters: "0123456789?<>=!", layers: 1, hidden: 32, heads: 2, context: 32}
  dtype: float32
data: {source: "generator:seeds", options: {count: 40}, holdout: 8, chat: false}
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 2, canary_tolerance: 0.001}
evaluation: {temperature: 1.0}
stages:
  - name: sft
    data: {source: "generator:guess_number_games", options: {numbers: 5, guesses: 4, count: 60}, chat: false}
    algorithm: {type: sft}
    optimizer: {lr: 1e-2}
    train: {steps: 24, batch: 16}
  - name: grpo
    environment: {name: guess_number, options: {numbers: 5, guesses: 4}, max_turns: 3}
    algorithm: {type: grpo}
    optimizer: {lr: 1e-3}
    train: {steps: 4}
checkpoints: {every: 1}
health: {dead_steps: 100}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "games.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("stages.0.environment={name: maze}", "stages.0.environment: sft learns from offline data \\(sft\\), not"),
        (
            "stages.1.environment.name=guess_numbers",
            r"no environment is called 'guess_numbers' \(did you mean 'guess_n",
        ),
        (
            "stages.1.environment.options.number=5",
            r"'?number'?: is not an option of guess_number \(did you mean 'numbers'",
        ),
        ("stages.1.environment.max_tokens=99", "max_tokens: is more than the model's context of 32; got 99"),
        ("stages.1.environment.max_turns=0", "max_turns"),
        ("stages.1.environment=null", "grpo learns from rewards; name at least one"),
    ],
)
def test_what_cannot_work_is_refused_with_its_cure(recipe, override, problem):
    with pytest.raises(RecipeError, match=problem):
        read_recipe(recipe, [override])


@pytest.mark.parametrize("kind", ["refuel", "archer"])
def test_rewards_beside_an_environment_are_refused_where_turns_are_learnt_from_one_by_one(recipe, kind):
    overrides = ["stages.1.rewards=[{name: ends_with_stop}]", f"stages.1.algorithm={{type: {kind}}}"]
    with pytest.raises(RecipeError, match=r"rewards: .* learns from what the environment pays each turn alone"):
        read_recipe(recipe, overrides)


def test_explain_adds_rewards_to_the_return_of_an_episode(recipe):
    found = explain_recipe(read_recipe(recipe, ["stages.1.rewards=[{name: ends_with_stop, weight: 0.5}]"]))
    assert found["stages"][1]["reward"] == (
        "return of an episode in guess_number, at most 3 turns + 0.5 x ends_with_stop"
    )


def test_explain_names_the_environment_and_counts_the_tokens_of_all_turns(recipe):
    stage = explain_recipe(read_recipe(recipe))["stages"][1]
    assert stage["reward"] == "return of an episode in guess_number, at most 3 turns"
    assert stage["batch"]["sampled_tokens"] == 4 * 4 * 4 * 3 * 2


def test_check_starts_episodes_and_finds_templates_that_rewrite(recipe):
    found = preflight(read_recipe(recipe), read_recipe(recipe).stages[1], rows=50)
    assert (found.prompts.count, found.prompts.longest, found.problems) == (20, 1, [])
    missing = read_recipe(recipe, ["model.scratch.characters='0123456789'"])
    with pytest.raises(Exception, match=r"no token for \['\?'\] in '\?'"):
        preflight(missing, missing.stages[1], rows=50)
    rewriting = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    chat = read_recipe(recipe, [f"model.chat_template={json.dumps(rewriting)}", "stages.1.data.chat=true"])
    problems = preflight(chat, chat.stages[1], rows=50).problems
    assert len(problems) == 1
    assert "turn 2: the chat template rewrites earlier turns" in problems[0]


def test_check_says_which_episode_does_not_start(recipe, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    (recipe.parent / "broken.py").write_text(
        "class broken:\n    async def start(self, task, seed): raise OSError('no sandbox')\n"
        "    async def step(self, text): ...\n"
    )
    broken = read_recipe(recipe, ["stages.1.environment={name: './broken.py:broken'}"])
    with pytest.raises(
        ContentError, match=r"generator:seeds:train/0 did not start: OSError: no sandbox \(broken.py:2\)"
    ):
        preflight(broken, broken.stages[1], rows=5)


def test_a_run_in_an_environment_resumes_to_the_same_bits_and_leaves_its_turns(recipe, tmp_path):
    train(read_recipe(recipe, [f"run={tmp_path / 'whole'}"]), resume=False)
    train(read_recipe(recipe, [f"run={tmp_path / 'cut'}", "stages.1.train.steps=2"]), resume=False)
    train(read_recipe(recipe, [f"run={tmp_path / 'cut'}"]), resume=True)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")

    metrics = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    step = metrics[-1]
    rows = parquet.read_table(tmp_path / "whole" / "rollouts" / "grpo-000027.parquet").to_pylist()
    assert len(rows) == step["rollout/completions"] == 16
    assert sum(row["reward"] for row in rows) / 16 == pytest.approx(step["reward/mean"])
    turns = [json.loads(row["turns"]) for row in rows]
    assert sum(map(len, turns)) / 16 == step["rollout/turns_mean"]
    assert all(sum(turn["reward"] for turn in said) == row["reward"] for said, row in zip(turns, rows, strict=True))
    cut = [row for row in rows if row["stop"] == "max_turns"]
    assert len(cut) / 16 == step["rollout/truncated_frac"]
    evaluations = sorted((tmp_path / "whole" / "evaluations").glob("*.json"), key=step_of)
    before, after = (json.loads(path.read_text()) for path in evaluations)
    assert before["tasks"] == after["tasks"] == 8
    assert after["reward_mean"] > before["reward_mean"]
