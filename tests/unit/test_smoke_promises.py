"""The table of what smoke recipes promise, and the command that checks it."""

from __future__ import annotations

import json
import re
import runpy
from datetime import date, timedelta
from pathlib import Path

import pytest

from alignkit.recipe.lookup.made_by import COMMAND
from alignkit.run_folder.names import check_names

ROOT = Path(__file__).resolve().parents[2]
SMOKE = runpy.run_path(str(ROOT / ".ci" / "smoke.py"))
Outcome, Promise, Row = SMOKE["Outcome"], SMOKE["Promise"], SMOKE["Row"]
TABLE = SMOKE["read_table"](SMOKE["TABLE"].read_text())
RECIPES = {path.stem: path.read_text() for path in (ROOT / "recipes" / "smoke").glob("*.yaml")}
DAY = date(2026, 11, 29)
ROW = Row("r", 1.0, (Promise("eval/accuracy", "least", 0.9), Promise("rollout/length_mean", "most", 3.4)), False, DAY)


def test_every_smoke_recipe_has_a_row_and_every_row_a_recipe():
    assert TABLE.keys() == RECIPES.keys()


def test_every_promise_is_of_a_metric_that_runs_log():
    assert len(TABLE) > 50
    check_names({promise.measure for row in TABLE.values() for promise in row.promises})
    assert all(row.promises for row in TABLE.values())


@pytest.mark.parametrize("name", RECIPES)
def test_a_header_leaves_the_number_to_the_table_and_agrees_about_minutes(name):
    head = {line.split()[1]: line for line in RECIPES[name].splitlines()[:12] if line.startswith("#   ")}
    assert "promises.toml" in head["expected"]
    assert float(re.findall(r"[\d.]+", head["minutes"])[0]) == TABLE[name].minutes


def test_the_quick_rows_are_those_of_make_smoke():
    quick = "char-addition dpo grpo grpo-judges ppo ppo-steps rebel reward-bradley-terry rloo"
    assert {name for name, row in TABLE.items() if row.quick} == set(quick.split())
    assert {row.recipe for row in SMOKE["chosen"](TABLE, [], False)} == set(quick.split())


def test_rows_are_chosen_by_name_or_all_and_the_longest_comes_first():
    assert [row.recipe for row in SMOKE["chosen"](TABLE, ["rlmec", "dqo", "grpo"], False)] == ["dqo", "grpo", "rlmec"]
    assert len(SMOKE["chosen"](TABLE, [], True)) == len(TABLE)
    with pytest.raises(SystemExit, match=r"promises\.toml has no row grop; it has chains, "):
        SMOKE["chosen"](TABLE, ["grop"], False)


def test_a_row_is_read_as_bounds_and_one_that_promises_nothing_is_refused():
    both = "eval/reward_mean at least -3.8 and eval/accuracy at most 1"
    text = f'r = {{minutes = 2.5, promises = "{both}", checked = 2026-11-29}}'
    promises = (Promise("eval/reward_mean", "least", -3.8), Promise("eval/accuracy", "most", 1.0))
    assert SMOKE["read_table"](text) == {"r": Row("r", 2.5, promises, False, DAY)}
    for wrong in ("", "eval/accuracy", "eval/accuracy about 0.9", "eval/accuracy at least 0.9, or so"):
        with pytest.raises(ValueError, match=r"promises\.toml: r: wants `METRIC at least\|most NUMBER`"):
            SMOKE["read_table"](f'r = {{minutes = 1, promises = "{wrong}", checked = 2026-11-29}}')
    with pytest.raises(TypeError, match="promises"):
        SMOKE["read_table"]("r = {minutes = 1}")


def test_a_row_that_was_kept_gets_the_day_and_no_other_one_does():
    assert all(row.checked for row in TABLE.values() if row.quick)  # which `make smoke` runs
    text, later = SMOKE["TABLE"].read_text(), max(row.checked for row in TABLE.values() if row.checked)
    text, later = re.sub("(sppo .*), checked = [-\\d]+", "\\1", text), later + timedelta(days=1)
    kept = ["grpo", "guess-number-archer", "kto", "sppo"]  # of `quick` rows and others, checked before and never
    stamped = SMOKE["read_table"](SMOKE["stamp"](text, kept, later))
    assert {name for name, row in stamped.items() if row.checked == later} == set(kept)
    assert {name: (row.promises, row.quick) for name, row in stamped.items()} == {
        name: (row.promises, row.quick) for name, row in TABLE.items()
    }
    assert SMOKE["stamp"](text, [], later) == text


def test_evaluations_are_read_from_the_last_one_and_metrics_over_the_last_twenty_steps(tmp_path):
    (tmp_path / "evaluations").mkdir()
    for stage, step, accuracy in (("sft", 100, 0.7), ("grpo", 99, 0.2), ("grpo", 1000, 0.8)):
        text = json.dumps({"accuracy": accuracy, "reward_mean": -accuracy})
        (tmp_path / "evaluations" / f"{stage}-{step:06d}.json").write_text(text)
    lines = [json.dumps({"rollout/length_mean": float(step)}) for step in range(1, 41)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert SMOKE["measure"](tmp_path, "eval/accuracy") == 0.8
    assert SMOKE["measure"](tmp_path, "eval/reward_mean") == -0.8
    assert SMOKE["measure"](tmp_path, "rollout/length_mean") == 30.5  # the mean of 21 to 40


@pytest.mark.parametrize(
    ("measured", "kept", "told"),
    [
        ((0.9, 3.4), True, "r: ok: eval/accuracy 0.900 (promised at least 0.9), rollout/length_mean 3.400 (promised"),
        ((0.8999, 3.0), False, "r: MISSED: eval/accuracy 0.900 (promised at least 0.9)"),
        ((1.0, 3.41), False, "r: MISSED: eval/accuracy 1.000"),
        ((float("nan"), 3.0), False, "r: MISSED"),
        (None, False, "r: FAILED (61 s)"),
    ],
)
def test_a_promise_is_kept_at_its_bound_and_missed_beyond_it(measured, kept, told):
    outcome = Outcome(ROW, 61.2, measured)
    assert outcome.kept is kept
    assert str(outcome).startswith(told)


def test_what_a_recipe_begins_with_is_made_first_and_once(tmp_path, monkeypatch):
    trained = []

    def train(recipe: Path, run: Path) -> bool:
        (run / "final").mkdir(parents=True)
        trained.append((recipe.name, run.relative_to(tmp_path).as_posix()))
        return True

    make = SMOKE["make_what_it_begins_with"]
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.setitem(make.__globals__, "ROOT", tmp_path)
    monkeypatch.setitem(make.__globals__, "train", train)
    for name in ("rlmec", "rlmec", "grpo-learned"):
        make(ROOT / "recipes" / "smoke" / f"{name}.yaml")
    assert trained == [
        ("start.yaml", "runs/smoke-start"),
        ("rlmec-rewriter.yaml", "runs/smoke-rlmec-rewriter"),
        ("reward-plackett-luce.yaml", "runs/reward-plackett-luce"),
        ("reward-quantile.yaml", "runs/reward-quantile"),
    ]


def test_every_smoke_recipe_names_the_command_that_trains_it():
    for name, text in RECIPES.items():
        command = COMMAND.search(text)
        assert command, name
        assert command[1].split()[2] == f"recipes/smoke/{name}.yaml"
