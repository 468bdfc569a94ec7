"""Launching: the exact command, the processes it starts, and the exit code that comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignkit.cli import main
from alignkit.errors import AlignkitError, ContentError
from alignkit.recipe.document import read_document
from alignkit.recipe.lookup.find import find, list_content
from alignkit.run.launch.launch import (
    DEEPSPEED_FILE,
    REPORT_FOLDER,
    accelerate_command,
    deepspeed_file,
    is_launched,
    report_end,
    report_start,
    reported_code,
    run_launched,
    slurm_script,
    submit,
)

ROOT = Path(__file__).parents[2]
RECIPE = """\
model: {scratch: {}}
data: {source: "generator:arithmetic"}
rewards: [{name: exact_match}]
rollouts: {engine: hf, max_new_tokens: 8}
algorithm: {type: grpo}
optimizer: {lr: 1e-3}
train: {steps: 3}
"""
SHARDED = {"zero2": 2, "zero3": 3, "zero3-offload": 3, "zero2-cpu": 2, "zero3-cpu": 3, "multi-node": 3}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for mark in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(mark, raising=False)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def profile(name: str):
    return find("launch", name)


@pytest.mark.parametrize(("name", "stage"), SHARDED.items())
def test_every_sharded_profile_names_a_deepspeed_file_of_its_stage(folder, name, stage):
    command = accelerate_command(
        profile(name), ["train", "r.yaml"], processes=None, environ={"MACHINE_RANK": "1", "MASTER_ADDR": "head"}
    )
    file = Path(command[command.index("--deepspeed_config_file") + 1])
    assert json.loads(file.read_text())["zero_optimization"]["stage"] == stage


def test_every_accelerate_profile_is_a_config_that_accelerate_accepts():
    from accelerate.commands.config.config_args import load_config_from_file

    names = [found.name for found in list_content("launch") if found.path.suffix == ".yaml"]
    assert set(names) == {*SHARDED, "cpu", "single-gpu"}
    for name in names:
        config = load_config_from_file(str(profile(name).path))
        assert config.num_processes == read_document(profile(name).path, name).tree["num_processes"]


def test_print_shows_the_exact_command_and_starts_nothing(folder, capsys):
    assert main.run(["train", "r.yaml", "train.steps=4", "--launch", "zero2-cpu", "--processes", "3", "--print"]) == 0
    words = capsys.readouterr().out.split()
    assert Path(words[0]).name == "accelerate"
    shelf = ROOT / "launch"
    assert words[1:] == [
        "launch",
        *("--config_file", str(shelf / "accelerate" / "zero2-cpu.yaml")),
        *("--deepspeed_config_file", str(shelf / "deepspeed" / "zero2.json")),
        *("--num_processes", "3"),
        *("-m", "alignkit", "train", "r.yaml", "train.steps=4"),
    ]


def test_the_recipes_own_profile_is_used_and_the_flag_wins_over_it(folder, capsys):
    (folder / "r.yaml").write_text(RECIPE + "launch: zero3-cpu\n")
    main.run(["train", "r.yaml", "--resume", "--run", "out", "--print"])
    printed = capsys.readouterr().out
    assert "zero3-cpu.yaml" in printed
    assert printed.endswith("-m alignkit train r.yaml run=out --resume\n")
    main.run(["train", "r.yaml", "--launch", "cpu", "--print"])
    assert "accelerate/cpu.yaml" in capsys.readouterr().out


def test_without_a_profile_the_command_is_this_process(folder, capsys):
    assert main.run(["train", "r.yaml", "--print"]) == 0
    assert capsys.readouterr().out.split()[1:] == ["-m", "alignkit", "train", "r.yaml"]


def test_a_users_profile_beside_the_recipe_wins_and_finds_its_deepspeed_file(folder):
    (folder / "launch").mkdir()
    (folder / "launch" / "mine.json").write_text("{}")
    text = profile("zero2").path.read_text().replace("launch/deepspeed/zero2.json", "mine.json")
    (folder / "launch" / "zero2.yaml").write_text(text)
    found = find("launch", "zero2", beside=folder)
    command = accelerate_command(found, [], processes=None, environ={})
    assert command[command.index("--deepspeed_config_file") + 1] == str(folder / "launch" / "mine.json")
    (folder / "launch" / "mine.json").unlink()
    with pytest.raises(ContentError, match=r"there is no DeepSpeed file 'mine\.json'"):
        accelerate_command(found, [], processes=None, environ={})


def test_several_machines_need_to_know_which_one_this_is(folder):
    with pytest.raises(AlignkitError, match="MACHINE_RANK"):
        accelerate_command(profile("multi-node"), [], processes=None, environ={"MASTER_ADDR": "head"})
    environ = {"MASTER_ADDR": "head", "SLURM_NODEID": "1"}
    command = accelerate_command(profile("multi-node"), [], processes=None, environ=environ)
    assert command[command.index("--machine_rank") + 1] == "1"
    assert command[command.index("--main_process_ip") + 1] == "head"


def test_the_slurm_script_is_valid_bash_with_the_machines_of_the_profile(folder):
    script = slurm_script(profile("slurm"), ["train", "it's.yaml"], job_name="r", beside=None)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --nodes=2\n" in script
    assert "#SBATCH --gpus-per-node=8\n" in script
    assert "-m alignkit train 'it'\"'\"'s.yaml' --launch multi-node $resume &" in script


def test_submitting_without_slurm_says_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AlignkitError, match="add --print"):
        submit("#!/bin/bash")


@pytest.mark.parametrize("mark", ["RANK", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"])
def test_a_launched_process_does_not_launch_again(mark):
    assert is_launched({mark: "0"})
    assert not is_launched({"PATH": "/bin"})


def test_the_deepspeed_file_is_found_from_the_working_folder_or_the_shelf(folder):
    shipped = ROOT / "launch" / "deepspeed" / "zero3.json"
    assert deepspeed_file({}) is None
    assert deepspeed_file({DEEPSPEED_FILE: str(shipped)}) == shipped
    assert deepspeed_file({DEEPSPEED_FILE: "launch/deepspeed/zero3.json"}) == shipped
    with pytest.raises(ContentError):
        deepspeed_file({DEEPSPEED_FILE: "launch/deepspeed/zero4.json"})


@pytest.mark.parametrize(
    ("reports", "launcher", "code"),
    [
        (["11 0", "12 0"], 0, 0),
        (["11 85", "12 85"], 0, 85),
        (["11 85", "12 85"], 1, 85),
        (["11 85", "12 3"], 1, 3),
        (["11 0", "12"], 1, 1),  # killed without a word
        (["11 85", "12"], 0, 1),
        ([], 2, 2),
    ],
)
def test_the_exit_code_of_a_launched_run_is_the_first_real_failure(tmp_path, reports, launcher, code):
    for rank, report in enumerate(reports):
        (tmp_path / str(rank)).write_text(report)
    assert reported_code(tmp_path, launcher) == code


def test_a_preempted_process_is_no_failure_for_the_launcher(tmp_path):
    environ = {REPORT_FOLDER: str(tmp_path), "LOCAL_RANK": "1"}
    report_start(environ)
    assert (tmp_path / "1").read_text() == str(os.getpid())
    assert report_end(environ, 85) == 0
    assert report_end(environ, 3) == 3
    assert (tmp_path / "1").read_text() == f"{os.getpid()} 3"
    assert report_end({}, 85) == 85


WORKER = """
import os, signal, sys, time
from alignkit.run.launch.launch import report_end, report_start
report_start(os.environ)
caught = []
signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
print("ready", flush=True)
while not caught:
    time.sleep(0.01)
sys.exit(report_end(os.environ, 85))
"""


def test_sigterm_reaches_the_worker_itself_and_its_code_comes_back(tmp_path):
    """The process between stands for accelerate: it ignores SIGTERM and waits for its child."""
    between = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1]]).returncode)"
    )
    launcher = (
        "import sys; from alignkit.run.launch.launch import run_launched;"
        "sys.exit(run_launched([sys.executable, '-c', sys.argv[1], sys.argv[2]]))"
    )
    command = [sys.executable, "-c", launcher, between, WORKER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 85


def test_a_command_that_fails_before_any_worker_starts_gives_its_own_code():
    assert run_launched([sys.executable, "-c", "raise SystemExit(7)"]) == 7


def test_the_cpu_profile_starts_two_processes_that_know_their_ranks(folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = folder / "ranks.py"
    keys = ("RANK", "WORLD_SIZE", DEEPSPEED_FILE, "ACCELERATE_USE_DEEPSPEED")
    script.write_text(
        f"import json, os\nrank = os.environ['RANK']\n"
        f"open(f'rank{{rank}}.json', 'w').write(json.dumps({{k: os.environ.get(k) for k in {keys}}}))\n"
    )
    command = accelerate_command(profile("zero2-cpu"), [], processes=None, environ=os.environ)
    command = [*command[: command.index("-m")], str(script)]
    assert run_launched(command) == 0
    seen = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [process["RANK"] for process in seen] == ["0", "1"]
    assert {process["WORLD_SIZE"] for process in seen} == {"2"}
    assert {process["ACCELERATE_USE_DEEPSPEED"] for process in seen} == {"true"}
    assert deepspeed_file(seen[0]) == ROOT / "launch" / "deepspeed" / "zero2.json"


@pytest.mark.slow
def test_a_launched_run_that_fails_says_so_in_one_line_per_process_and_gives_its_exit_code(folder):
    (folder / "out").mkdir()
    (folder / "out" / "metrics.jsonl").touch()
    command = [sys.executable, "-m", "alignkit", "train", "r.yaml", "--run", "out", "--launch", "zero2-cpu"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    ours = sorted(line for line in done.stderr.splitlines() if line.startswith("rank "))
    assert ours
    assert all("out holds a run already: --resume goes on with it" in line for line in ours)
