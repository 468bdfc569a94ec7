"""Epochs of given data: how many steps they are, and that a run makes these and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.data.kinds import sft
from alignkit.errors import RecipeError
from alignkit.ops.schedule import learning_rate, warmup_updates
from alignkit.recipe.explain import batch_equation
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.read import read_recipe
from alignkit.run.train.train import run

RECIPE = """
model: {scratch: {characters: "0123456789+=", layers: 1, hidden: 16, heads: 2, context: 16}, dtype: float32}
data: {source: "./rows.jsonl", chat: false}
algorithm: {type: sft}
optimizer: {lr: 1e-3, schedule: linear, warmup_steps: 0.25}
train: {epochs: 2, batch: 3}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{i}+1=", "completion": str(i + 1)} for i in range(7)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def steps_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_two_passes_over_seven_rows_in_batches_of_three_are_five_steps(folder):
    run(read_recipe(folder / "r.yaml", [f"run={folder / 'run'}"]), resume=False, as_json=True)
    steps = steps_of(folder / "run")
    assert [step["data/consumed"] for step in steps] == [3, 6, 9, 12, 15]  # 14 rows, the last step filled up with one
    warmup = warmup_updates(0.25, 5)
    assert warmup == 1
    wanted = [learning_rate(i, peak=1e-3, total=5, warmup=warmup, shape="linear") for i in range(5)]
    assert [step["optim/lr"] for step in steps] == pytest.approx(wanted)


def test_given_data_is_tokenised_once_and_says_once_what_it_leaves_out(folder, monkeypatch):
    with (folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "9+9+9+9=", "completion": "36=36=36=36="}) + "\n")
    calls = []
    rendered = sft.render_learnt
    monkeypatch.setattr(sft, "render_learnt", lambda *given: calls.append(given) or rendered(*given))
    settings = [f"run={folder / 'run'}", "data.long_completions=filter"]
    run(read_recipe(folder / "r.yaml", settings), resume=False, as_json=True)
    assert len(calls) == 8
    events = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    told = [event["text"] for event in events if "left out" in event.get("text", "")]
    assert told == ["./rows.jsonl: 1 of 8 completions left out, 1 with a completion too long"]


def test_a_run_of_epochs_keeps_its_own_words_and_resumes_with_the_same_bits(folder):
    recipe = read_recipe(folder / "r.yaml", [f"run={folder / 'run'}", "checkpoints.every=2"])
    run(recipe, resume=False, as_json=True)
    kept = [json.loads(file.read_text()) for file in (folder / "run").rglob("recipe*.json")]
    assert {(one["stages"][0]["train"]["steps"], one["stages"][0]["train"]["epochs"]) for one in kept} == {(None, 2)}
    before = steps_of(folder / "run")
    for newest in sorted((folder / "run" / "checkpoints").iterdir())[1:]:
        newest.rename(folder / newest.name)
    run(recipe, resume=True, as_json=True)
    assert [step["loss/policy"] for step in steps_of(folder / "run")] == [step["loss/policy"] for step in before]


def test_a_warm_up_longer_than_the_counted_steps_is_an_error_that_counts(folder):
    recipe = read_recipe(folder / "r.yaml", [f"run={folder / 'run'}", "optimizer.warmup_steps=5"])
    with pytest.raises(RecipeError, match="2 passes over 7 rows are 5 steps"):
        run(recipe, resume=False, as_json=True)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("train.steps=9", "2 passes or 9 steps"),
        ("optimizer.warmup_steps=1.5", "whole number of steps, or a share below 1"),
        ("train.max_update_kl=0.1", "stops further minibatches of a step, and there is only one"),
    ],
)
def test_contradictions_are_refused(folder, setting, problem):
    with pytest.raises(RecipeError, match=problem):
        read_recipe(folder / "r.yaml", [setting])


def test_sampled_data_needs_steps(folder):
    with pytest.raises(RecipeError, match=r"train\.steps: is missing; grpo samples"):
        read_recipe("quickstart", ["train.steps=null"])


def test_explain_says_passes_where_rows_decide(folder):
    stage = read_recipe(folder / "r.yaml").stages[0]
    assert str(batch_equation(stage, kind_of("sft"))) == "3 rows a step, 2 passes over the data"


def test_a_warm_up_below_one_is_a_share_and_above_a_number():
    assert [warmup_updates(given, 200) for given in (0, 0.03, 0.5, 1, 7)] == [0, 6, 100, 1, 7]
