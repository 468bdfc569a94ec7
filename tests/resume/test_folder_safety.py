"""A run folder is safe: refused starts change nothing, two processes never share it, and what is cut off is kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignkit.errors import CheckpointError, StorageError
from alignkit.recipe.read import read_recipe
from alignkit.run.train.train import run as train
from alignkit.types.owner import Owner
from tests.resume.forked import Forked

RECIPE = """
seed: 5
model:
  scratch: {characters: "0123456789+=", layers: 1, hidden: 16, heads: 2, context: 12}
  dtype: float32
data: {source: generator:arithmetic, options: {digits: 1, style: characters}, chat: false, max_prompt_tokens: 6}
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 3, canary_tolerance: 0.001, reward_workers: 1}
rewards: [{name: exact_match}]
algorithm: {type: grpo}
optimizer: {lr: 1e-3}
train: {steps: 4}
checkpoints: {every: 2, keep: 3}
health: {dead_steps: 1000}
"""


def snapshot(run: Path) -> dict[str, tuple[str, int]]:
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(run)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder with recipe.yaml and the finished run of 4 steps, checkpoints at 2 and 4."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "recipe.yaml").write_text(RECIPE)
    start(folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def start(folder: Path, *, resume: bool = False, steps: int = 4, run: str = "run") -> None:
    train(read_recipe(str(folder / "recipe.yaml"), [f"run={folder / run}", f"train.steps={steps}"]), resume=resume)


def test_a_finished_run_leaves_no_lock(finished):
    names = {path.name for path in (finished / "run").iterdir()}
    assert {"metrics.jsonl", "checkpoints", "final"} <= names
    assert "lock.json" not in names


def test_when_every_checkpoint_is_damaged_nothing_is_touched_and_all_are_named(copy):
    for file in (copy / "run" / "checkpoints").glob("step-*/model.safetensors"):
        file.write_bytes(file.read_bytes() + b"x")
    before = snapshot(copy / "run")
    with pytest.raises(CheckpointError) as caught:
        start(copy, resume=True)
    for name in ("step-000004", "step-000002"):
        assert f"{name} (model.safetensors has changed)" in str(caught.value)
    assert caught.value.exit_code == 2
    assert snapshot(copy / "run") == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_use_is_left_alone(copy, resume):
    run = copy / ("run" if resume else "new")
    run.mkdir(exist_ok=True)
    owner = Owner(run / "lock.json")
    before = snapshot(run)
    with pytest.raises(StorageError, match=f"is in use by process {os.getpid()} on "):
        start(copy, resume=resume, run=run.name)
    assert snapshot(run) == before
    owner.release()


@pytest.mark.parametrize("kept", ["metrics.jsonl", "checkpoints", "final"])
def test_a_new_start_is_refused_by_anything_that_a_run_left(copy, kept):
    for path in (copy / "run").iterdir():
        if path.name != kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = snapshot(copy / "run")
    with pytest.raises(CheckpointError, match="holds a run already: --resume goes on with it"):
        start(copy)
    assert snapshot(copy / "run") == before


def test_a_start_that_fails_before_it_begins_leaves_no_folder(copy):
    (copy / "recipe.yaml").write_text(RECIPE.replace("exact_match", "./gone.py:gone"))
    with pytest.raises(Exception, match=r"gone"):
        start(copy, run="new")
    assert not (copy / "new").exists()


def test_what_a_resume_does_again_is_kept_beside_and_the_files_are_the_same_again(copy):
    run = copy / "run"
    shutil.rmtree(run / "checkpoints" / "step-000004")
    metrics, ledger = (run / "metrics.jsonl").read_text(), (run / "ledger.jsonl").read_bytes()
    start(copy, resume=True)
    assert (run / "metrics.jsonl.cut-at-2").read_text() == "".join(metrics.splitlines(keepends=True)[2:])
    assert sorted(path.name[-14:] for path in (run / "rollouts.cut-at-2").iterdir()) == [
        "000002.parquet",
        "000003.parquet",
    ]
    assert (run / "ledger.jsonl").read_bytes() == ledger
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    told = [event["text"] for event in events if event["kind"] == "message"]
    assert "2 steps after step 2 are done again; what they left is kept as *.cut-at-2" in told


def test_a_damaged_newest_checkpoint_is_said_for_good(copy):
    (copy / "run" / "checkpoints" / "step-000004" / "manifest.json").write_text("{}")
    start(copy, resume=True)
    assert "step-000004 is damaged (manifest.json does not name state.json" in (copy / "run/events.jsonl").read_text()


def command(folder: Path, *arguments: str, resume: bool = False, run: str = "run") -> list[str]:
    base = [sys.executable, "-m", "alignkit", "train", str(folder / "recipe.yaml"), f"run={folder / run}", *arguments]
    return [*base, *(["--resume"] if resume else [])]


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("resume", [False, True])
def test_of_two_starts_one_runs_and_the_other_writes_nothing(copy, resume):
    run = copy / ("run" if resume else "new")
    logs = [copy / f"{name}.log" for name in "ab"]
    both = [Forked(copy / "recipe.yaml", run, "train.steps=30", resume=resume, log=log) for log in logs]
    codes = [process.wait(120) for process in both]
    said = [log.read_text() for log in logs]
    assert sorted(codes) == [0, 2], said
    assert f"{run} is in use by process {both[codes.index(0)].pid} on " in said[codes.index(2)]
    for name in ("metrics.jsonl", "ledger.jsonl"):
        assert [record["step"] for record in lines(run / name)] == list(range(30))


@pytest.mark.slow
def test_a_resume_beside_a_running_run_is_refused_and_after_a_kill_it_is_not(copy):
    process = subprocess.Popen(command(copy, "train.steps=2000", run="new"), stdout=subprocess.DEVNULL)
    while len(lines(copy / "new" / "metrics.jsonl")) < 4:
        time.sleep(0.02)
    arguments = command(copy, "train.steps=2000", resume=True, run="new")
    beside = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert beside.returncode == 2
    assert f"in use by process {process.pid} on " in beside.stderr
    process.kill()
    process.wait()
    steps = len(lines(copy / "new" / "metrics.jsonl")) + 2  # it went on while it was asked for
    arguments[arguments.index("train.steps=2000")] = f"train.steps={steps}"
    after = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert after.returncode == 0, after.stderr
    assert f"was left without an end by process {process.pid} on " in after.stdout
    assert [record["step"] for record in lines(copy / "new" / "metrics.jsonl")] == list(range(steps))


@pytest.mark.slow
@pytest.mark.parametrize("how", [">&- 2>&-", "> /dev/full", "> /dev/full 2> /dev/full", "--json > /dev/full", "<&-"])
def test_a_display_that_shows_nothing_does_not_end_the_run(copy, how):
    import shlex

    shell = f"exec {shlex.join(command(copy, run='new'))} {how}"
    done = subprocess.run(["bash", "-c", shell], timeout=120, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [record["step"] for record in lines(copy / "new" / "metrics.jsonl")] == list(range(4))
    assert (copy / "new" / "final" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.3, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
def test_sigterm_while_starting_ends_with_85_or_before_anything_was_written(copy, wait):
    process = subprocess.Popen(command(copy, "train.steps=100000", run="new"), stdout=subprocess.DEVNULL)
    time.sleep(wait)
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=120)
    assert code == 85 or (code == -signal.SIGTERM and not (copy / "new").exists())
    assert not (copy / "new" / "lock.json").exists()
    assert Forked(copy / "recipe.yaml", copy / "new", resume=True).wait(120) == 0
    recorded = [record["step"] for record in lines(copy / "new" / "metrics.jsonl")]
    assert recorded == list(range(len(recorded)))
    assert len(recorded) >= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("x" * 300, "File name too long): the name is too long: choose a shorter one"),
        ("file", "File exists): a file stands where a folder is wanted"),
        ("file/run", "Not a directory): a file stands where a folder is wanted"),
    ],
)
def test_a_place_where_no_folder_can_be_is_a_wrong_input(copy, run, says):
    (copy / "file").write_text("in the way")
    done = subprocess.run(command(copy, run=run), timeout=120, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr
