"""Several sources in one run: each row knows its own, is paid by the rewards for it, counts in an accuracy of it."""

from __future__ import annotations

import json

import pytest

from alignkit.data.sources import load_tasks
from alignkit.errors import DataError, RecipeError
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Data, Part, RewardSpec
from alignkit.rewards.pool.blend import check_rows
from alignkit.run.check.preflight import preflight
from alignkit.run.train.train import run as train
from alignkit.run_folder import json_lines
from alignkit.train.evaluate import grader_of
from alignkit.types.task import Task

PARTS = ("sums", "larger")
RECIPE = """
seed: 3
model:
  scratch: {characters: "0123456789+>=", layers: 1, hidden: 16, heads: 2, context: 12}
  dtype: float32
data:
  mixture:
    sums: {source: "generator:arithmetic", options: {digits: 1, style: characters}}
    larger: {source: "generator:comparison", options: {digits: 1, style: characters}, limit: 20}
  holdout: 30
  chat: false
rewards:
  - {name: exact_match, only: {source: sums}}
  - {name: final_number, only: {source: larger}}
rollouts: {engine: hf, prompts: 16, group: 2, max_new_tokens: 3, canary_tolerance: 0.001, reward_workers: 1}
evaluation: {every: 2}
checkpoints: {every: null}
health: {dead_steps: 100}
stages:
  - {name: sft, algorithm: {type: sft}, optimizer: {lr: 3e-3}, train: {steps: 2, batch: 8}}
  - {name: grpo, algorithm: {type: grpo}, optimizer: {lr: 1e-3}, train: {steps: 2}}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mixed.yaml"
    path.write_text(RECIPE)
    return path


def test_the_rows_of_a_mixture_are_those_of_its_parts_with_their_names(tmp_path):
    rows = [{"question": f"{n}?", "prompt": "?", "source": "a book"} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = {
        "asked": Part(source="a.jsonl", template="{question}"),
        "plain": Part(source="a.jsonl", limit=2),
    }
    tasks = load_tasks(Data(mixture=parts, chat=False), seed=0, beside=tmp_path)
    assert [task.text for task in tasks] == ["0?", "1?", "2?", "?", "?"]
    assert [task.columns["source"] for task in tasks] == ["asked"] * 3 + ["plain"] * 2
    assert [task.id for task in tasks[2:4]] == ["asked:a.jsonl/2", "plain:a.jsonl/0"], "one file twice, no id twice"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("data.source=generator:parity", "data.source: belongs into each part of `mixture`; move it there"),
        ("data.limit=3", "data.limit: belongs into each part of `mixture`; move it there"),
        ("data.mixture.sums.source=generator:sums", "data.mixture.sums.source: no generator is called 'sums'"),
        ("data.mixture.sums.options.digit=1", "data.mixture.sums.options.digit: is not an option of"),
        ("data.mixture.more={limit: 3}", "data.mixture.more.source: is missing"),
        ("data.mixture={}", "data.source: is missing"),
    ],
)
def test_what_a_mixture_cannot_be_is_said_where_it_stands(recipe, override, problem):
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe, [override])
    assert problem in str(error.value)


def test_a_reward_that_is_for_no_row_is_refused_before_anything_is_sampled(recipe):
    tasks = [Task(id=name, text="?", columns={"source": name}) for name in ("sums", "larger")]
    check_rows([RewardSpec(name="r", only={"source": ["sums", "other"]})], tasks)
    told = "reward 'r' is only for {'source': 'sum'}, which fits no row; there source is larger, sums"
    with pytest.raises(DataError, match=told):
        check_rows([RewardSpec(name="r", only={"source": "sum"})], tasks)
    mistyped = read_recipe(recipe, ["rewards.0.only.source=sum"])
    with pytest.raises(DataError, match="reward 'exact_match' is only for"):
        preflight(mistyped, mistyped.stages[1], rows=10)


def test_check_grades_gold_answers_of_every_part(recipe):
    read = read_recipe(recipe)
    found = preflight(read, read.stages[1], rows=20)
    assert (found.tasks, found.gold.rows) == (90, 20)  # 70 sums and the first 20 comparisons
    assert found.gold.means == {"total": 1.0, "exact_match": 1.0, "final_number": 1.0}


def test_the_first_reward_for_a_row_that_is_no_gate_decides_what_is_right():
    specs = [
        RewardSpec(name="format", gate=True),
        RewardSpec(name="sum", only={"source": "sums"}),
        RewardSpec(name="number"),
    ]
    graders = {
        source: grader_of(specs, ["format", "sum", "number"], Task(id="0", text="?", columns={"source": source}))
        for source in ("sums", "larger")
    }
    assert graders == {"sums": "sum", "larger": "number"}
    nobody = Task(id="0", text="?", columns={"source": "larger"})
    assert grader_of(specs[:1], ["format"], nobody) == "format"
    assert grader_of(specs[1:2], ["sum"], nobody) is None


def test_every_part_is_evaluated_also_where_a_stage_ends(recipe, tmp_path):
    train(read_recipe(recipe, [f"run={tmp_path / 'run'}"]), resume=False)
    files = sorted((tmp_path / "run" / "evaluations").glob("*.json"))
    assert [file.stem for file in files] == ["grpo-000004", "sft-000000", "sft-000002"]
    for file in files:
        told = json.loads(file.read_text())
        by_part = {part: [r["correct"] for r in told["results"] if r["task_id"].startswith(part)] for part in PARTS}
        assert sum(map(len, by_part.values())) == 30
        assert None not in by_part["sums"] + by_part["larger"], "each is graded by the reward for it"
        assert told["unscorable_frac"] == 0
        for part, correct in by_part.items():
            assert told[f"accuracy/{part}"] == pytest.approx(sum(correct) / len(correct))
    steps = json_lines.read(tmp_path / "run" / "metrics.jsonl")[2:]
    assert all(0 <= step[f"reward/part/{name}"] <= 1 for step in steps for name in ("exact_match", "final_number"))
