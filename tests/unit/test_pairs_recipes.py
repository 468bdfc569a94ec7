"""Paired preferences and unpaired feedback in recipes: what `check` says of them, small runs, and runs cut off."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from alignkit.data.look.spans import runs
from alignkit.errors import DataError, RecipeError
from alignkit.recipe.explain import explain_recipe
from alignkit.recipe.read import read_recipe
from alignkit.run.check.preflight import preflight
from alignkit.run.train.train import run as train
from tests.resume.runs import fingerprint

RECIPE = """
seed: 3
model:
  scratch: {characters: "0123456789+=", layers: 1, hidden: 32, heads: 2, context: 12}
  dtype: float32
data:
  source: rows.jsonl
  chat: false
stages:
  - name: sft
    algorithm: {type: sft}
    data: {source: "generator:arithmetic", options: {style: characters}, chat: false}
    optimizer: {lr: 3e-3}
    train: {steps: 4, batch: 16}
  - name: preferences
    algorithm: {type: dpo}
    optimizer: {lr: 1e-3}
    train: {steps: 6, batch: 4}
checkpoints: {every: 1}
health: {dead_steps: 100}
"""


def row(number: int) -> dict:
    return {"prompt": f"{number}+1=", "chosen": str(number + 1), "rejected": str(number)}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [row(number) for number in range(8)]
    rows += [{"prompt": "1+1=", "chosen": "2", "rejected": "2"}, {"prompt": "1+1=", "chosen": "", "rejected": "2"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    path = tmp_path / "pairs.yaml"
    path.write_text(RECIPE)
    return path


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_check_counts_what_cannot_be_learnt_from(recipe):
    resolved = read_recipe(recipe)
    found = preflight(resolved, resolved.stages[1], rows=50)
    assert found.compared is not None
    told = asdict(found.compared)
    texts = [[(run.text, run.learnt) for run in runs(one.spans)] for one in found.compared.example]
    assert texts == [[("0+1=", False), ("1<eos>", True)], [("0<eos>", True)]]
    assert [one.pop("caption") for one in told.pop("example")] == ["preferred", "rejected"]
    assert told == {
        "kept": 8,
        "left_out": {"equal sides": 1, "an empty completion": 1},
        "truncated": 0,
        "lengths": "mean tokens of 8 chosen completions 2.0, of 8 rejected 2.0",
        "problem": None,
    }
    assert found.problems == []
    assert preflight(resolved, resolved.stages[0], rows=5).compared is None


def test_check_says_what_training_would_refuse(recipe):
    (recipe.parent / "rows.jsonl").write_text(json.dumps(row(1) | {"rejected": "2"}))
    resolved = read_recipe(recipe)
    sentence = "rows.jsonl: 1 of 1 pairs left out, 1 with equal sides"
    assert preflight(resolved, resolved.stages[1], rows=50).problems == [f"data: {sentence}"]
    with pytest.raises(DataError, match=sentence):
        train(read_recipe(recipe, [f"run={recipe.parent / 'run'}"]), resume=False)
    one_class = [{"prompt": f"{n}+1=", "completion": "2", "label": True} for n in range(3)]
    (recipe.parent / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in one_class))
    resolved = read_recipe(recipe, ["stages.1.algorithm.type=kto"])
    [problem] = preflight(resolved, resolved.stages[1], rows=50).problems
    assert problem.startswith("data: rows.jsonl: all 3 completions are good, so there is nothing to tell apart")


def test_impossible_settings_are_located(recipe):
    with pytest.raises(
        RecipeError, match=r"stages\.1\.algorithm: loss_type robust without flipped labels.*label_smoothing above 0"
    ):
        read_recipe(recipe, ["stages.1.algorithm.loss_type=robust"])
    with pytest.raises(RecipeError, match=r"train\.batch.*is missing; dpo needs the number of rows per step"):
        read_recipe(recipe, ["stages.1.train={steps: 3}"])


def test_explain_names_the_reference(recipe):
    stage = explain_recipe(read_recipe(recipe))["stages"][1]
    assert stage["models"] == ["policy", "reference"]
    assert stage["objective"].startswith("minimise the sigmoid loss of 0.1 x (chosen - rejected sum of log-ratios")


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_a_run_learns_its_pairs_and_asks_the_reference_once(kind, recipe):
    run = recipe.parent / "run"
    overrides = [f"run={run}", f"stages.1.algorithm.type={kind}", "stages.1.train.steps=40"]
    assert train(read_recipe(recipe, overrides), resume=False)["steps"] == 44
    steps = metrics(run)[4:]
    assert steps[0]["pairs/reward_chosen"] == pytest.approx(0, abs=1e-6)
    assert all(
        step["data/left_out_frac"] == pytest.approx({"dpo": 2, "kto": 1}[kind] / {"dpo": 10, "kto": 20}[kind])
        for step in steps
    )
    gaps = [
        step["pairs/reward_chosen"] - step["pairs/reward_rejected"]
        for step in steps
        if step["pairs/reward_rejected"] is not None and step["pairs/reward_chosen"] is not None
    ]
    assert gaps[-1] > 0.05
    assert (run / "reference.sqlite").stat().st_size > 4096


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_a_run_that_is_cut_off_and_resumed_in_a_later_epoch_is_the_same_run(kind, recipe, tmp_path):
    """It goes on at step 3 of 6, with two pairs of every four seen before: their reference log-probs are read."""
    kind = f"stages.1.algorithm.type={kind}"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(read_recipe(recipe, [f"run={whole}", kind]), resume=False)
    train(read_recipe(recipe, [f"run={cut}", kind, "stages.1.train.steps=3"]), resume=False)
    train(read_recipe(recipe, [f"run={cut}", kind]), resume=True)
    assert fingerprint(cut) == fingerprint(whole)
