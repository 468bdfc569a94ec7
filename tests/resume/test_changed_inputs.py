"""A resume that meets other rows than its checkpoint was computed from: refused, or accepted by name and for good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.errors import CheckpointError
from alignkit.recipe.read import read_recipe
from alignkit.run.train.train import run as train

RECIPE = """
model:
  scratch: {characters: "0123456789+=", layers: 1, hidden: 16, heads: 2, context: 12}
  dtype: float32
data: {source: ./rows.jsonl, chat: false}
algorithm: {type: sft}
optimizer: {lr: 1e-3}
train: {steps: 2, batch: 2}
checkpoints: {every: 2}
"""


def write_rows(folder: Path, count: int) -> None:
    rows = [{"prompt": f"{number}+1=", "completion": str(number + 1)} for number in range(count)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def snapshot(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in sorted(run.rglob("*")) if file.is_file()}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    write_rows(tmp_path, 6)
    train(read_recipe(str(tmp_path / "recipe.yaml"), [f"run={tmp_path / 'run'}"]), resume=False)
    return tmp_path


def resume(folder: Path, *accept: str, steps: int = 4) -> None:
    overrides = [f"run={folder / 'run'}", f"train.steps={steps}"]
    train(read_recipe(str(folder / "recipe.yaml"), overrides), resume=True, accept=accept)


def test_changed_rows_are_refused_before_a_byte_is_written_and_accepted_by_name(trained):
    write_rows(trained, 5)
    before = snapshot(trained / "run")
    with pytest.raises(CheckpointError, match=r"data: \./rows\.jsonl: 6 rows -> 5 rows, hash .*--accept-changes data"):
        resume(trained)
    with pytest.raises(CheckpointError, match="6 rows -> 5 rows"):
        resume(trained, "rewards")
    assert snapshot(trained / "run") == before
    resume(trained, "data")
    events = [json.loads(line) for line in (trained / "run" / "events.jsonl").read_text().splitlines()]
    (accepted,) = [event for event in events if event["kind"] == "changes_accepted"]
    assert (accepted["checkpoint"], accepted["kinds"], accepted["step"]) == ("step-000002", ["data"], 2)
    assert "6 rows -> 5 rows" in accepted["changes"][0]
    resume(trained, steps=6)  # its checkpoints are of the new rows: nothing is left to accept
    write_rows(trained, 6)
    with pytest.raises(CheckpointError, match="5 rows -> 6 rows"):
        resume(trained, steps=8)


def test_a_checkpoint_without_a_record_says_so_and_goes_on(trained):
    for checkpoint in (trained / "run" / "checkpoints").iterdir():
        (checkpoint / "inputs.json").unlink()
        table = json.loads((checkpoint / "manifest.json").read_text())
        del table["inputs.json"]
        (checkpoint / "manifest.json").write_text(json.dumps(table))
    write_rows(trained, 5)
    resume(trained)
    assert "step-000002 was written without a record of its data" in (trained / "run" / "events.jsonl").read_text()
