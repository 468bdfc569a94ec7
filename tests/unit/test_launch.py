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
from alignkit.parallel.group import Group
from alignkit.parallel.zero import _settings
from alignkit.recipe.document import read_document
from alignkit.recipe.lookup.find import find, list_content
from alignkit.recipe.schema import Optimizer
from alignkit.run.launch.accelerate import accelerate_command
from alignkit.run.launch.deepspeed_file import DEEPSPEED_FILE, deepspeed_file
from alignkit.run.launch.gpus import visible_gpus
from alignkit.run.launch.launched import (
    REPORT_FOLDER,
    is_launched,
    report_end,
    report_start,
    reported_code,
    run_launched,
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
SHARDED = {"zero1": 1, "zero2": 2, "zero3": 3, "zero3-offload": 3, "zero2-cpu": 2, "zero3-cpu": 3, "multi-node": 3}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for mark in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(mark, raising=False)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def profile(name: str):
    return find("launch", name)


def command_on(gpus: int | None, name: str, processes: int | None = None, environ: dict | None = None) -> list[str]:
    return accelerate_command(profile(name), ["train"], processes=processes, gpus=gpus, environ=environ or {})


@pytest.mark.parametrize(("name", "stage"), SHARDED.items())
def test_every_sharded_profile_names_a_deepspeed_file_of_its_stage(folder, name, stage):
    command = accelerate_command(
        profile(name),
        ["train", "r.yaml"],
        processes=None,
        gpus=None,
        environ={"MACHINE_RANK": "1", "MASTER_ADDR": "head"},
    )
    file = Path(command[command.index("--deepspeed_config_file") + 1])
    assert json.loads(file.read_text())["zero_optimization"]["stage"] == stage


def test_every_accelerate_profile_is_read_by_accelerates_own_parser_as_it_is_meant(folder):
    """The parser of configs refuses keys that it does not know; the launcher's reads the command that we start."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    names = [found.name for found in list_content("launch") if found.path.suffix == ".yaml"]
    assert set(names) == {*SHARDED, "cpu", "single-gpu"}
    for name in names:
        config = load_config_from_file(str(profile(name).path))
        tree = read_document(profile(name).path, name).tree
        assert config.num_processes == tree.get("num_processes", -1)  # -1: to be given
        command = command_on(8, name, environ={"MACHINE_RANK": "1", "MASTER_ADDR": "head"})
        parsed = launch_command_parser().parse_args(command[2:])
        assert parsed.config_file == str(profile(name).path)
        wanted = {"cpu": None, "zero2-cpu": None, "zero3-cpu": None, "single-gpu": 1, "multi-node": 16}.get(name, 8)
        assert parsed.num_processes == wanted
        assert (parsed.deepspeed_config_file is not None) == (name in SHARDED)
        assert parsed.training_script_args == ["train"]


@pytest.mark.parametrize(("name", "stage"), SHARDED.items())
def test_deepspeeds_own_parser_reads_every_sharded_profile_and_leaves_no_key_unread(name, stage):
    from deepspeed.runtime.config import DeepSpeedConfig

    command = command_on(8, name, environ={"MACHINE_RANK": "1", "MASTER_ADDR": "head"})
    sharding = json.loads(Path(command[command.index("--deepspeed_config_file") + 1]).read_text())
    config = DeepSpeedConfig(_settings(sharding, Optimizer(lr=1e-3), Group(0, 1)))
    zero = config.zero_config
    assert zero.stage == stage
    said = sharding["zero_optimization"]
    known = {name for key, field in type(zero).model_fields.items() for name in (key, field.alias)}
    assert not said.keys() - known
    assert zero.overlap_comm is said["overlap_comm"]
    assert (zero.offload_optimizer is not None) == (name == "zero3-offload")


@pytest.mark.parametrize(("gpus", "asked", "given"), [(1, None, 1), (4, None, 4), (4, 2, 2), (8, 8, 8)])
def test_a_gpu_profile_has_a_process_for_each_visible_gpu(gpus, asked, given):
    command = command_on(gpus, "zero3", asked)
    assert command[command.index("--num_processes") + 1] == str(given)


def test_a_profile_of_several_machines_counts_the_gpus_of_one_on_each():
    environ = {"MACHINE_RANK": "0", "MASTER_ADDR": "head"}
    command = command_on(8, "multi-node", environ=environ)
    assert command[command.index("--num_processes") + 1] == "16"  # what the profile says
    with pytest.raises(AlignkitError, match="wants 16 GPUs on 2 machines, 4 visible here: use --processes 8"):
        command_on(4, "multi-node", environ=environ)
    command = command_on(4, "multi-node", 8, environ=environ)
    assert command[command.index("--num_processes") + 1] == "8"


@pytest.mark.parametrize(
    ("gpus", "asked", "words"),
    [
        (4, 8, "wants 8 GPUs, 4 visible here: use --processes 4"),
        (
            0,
            None,
            r"wants a GPU for each process, none is visible here \(nvidia-smi -L, CUDA_VISIBLE_DEVICES\): use a CPU",
        ),
        (0, 2, "wants 2 GPUs, none is visible here"),
    ],
)
def test_more_processes_than_gpus_are_refused_in_one_sentence(gpus, asked, words):
    with pytest.raises(AlignkitError, match=f"launch profile 'zero2' {words}"):
        command_on(gpus, "zero2", asked)


def test_cpu_profiles_do_not_count_gpus():
    assert "--num_processes" not in command_on(0, "zero2-cpu")
    assert command_on(0, "zero3-cpu", 3)[-5:-3] == ["--num_processes", "3"]


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({"CUDA_VISIBLE_DEVICES": value}, n)
        for value, n in [("0,1,2", 3), ("", 0), ("-1", 0), ("2,-1,3", 1), ("MIG-a", 1)]
    ]
    + [({}, 2)],
)
def test_visible_gpus_are_those_of_the_variable_or_all_that_the_driver_lists(environ, count, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A (UUID: GPU-1)'\necho 'GPU 1: NVIDIA A (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert visible_gpus(environ) == count
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert visible_gpus(environ) == (0 if not environ else count)
    tool.unlink()
    assert visible_gpus(environ) == (0 if not environ else count)


def test_a_gpu_profile_can_be_printed_but_not_started_without_gpus(folder, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main.run(["train", "r.yaml", "--launch", "zero2", "--print"]) == 0
    assert "zero2.yaml" in capsys.readouterr().out
    assert main.run(["train", "r.yaml", "--launch", "zero2"]) == 2
    assert "none is visible here" in capsys.readouterr().err


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
    command = accelerate_command(found, [], processes=None, gpus=None, environ={})
    assert command[command.index("--deepspeed_config_file") + 1] == str(folder / "launch" / "mine.json")
    (folder / "launch" / "mine.json").unlink()
    with pytest.raises(ContentError, match=r"there is no DeepSpeed file 'mine\.json'"):
        accelerate_command(found, [], processes=None, gpus=None, environ={})


def test_several_machines_need_to_know_which_one_this_is(folder):
    with pytest.raises(AlignkitError, match="MACHINE_RANK"):
        accelerate_command(profile("multi-node"), [], processes=None, gpus=None, environ={"MASTER_ADDR": "head"})
    environ = {"MASTER_ADDR": "head", "SLURM_NODEID": "1"}
    command = accelerate_command(profile("multi-node"), [], processes=None, gpus=None, environ=environ)
    assert command[command.index("--machine_rank") + 1] == "1"
    assert command[command.index("--main_process_ip") + 1] == "head"


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
from alignkit.run.launch.launched import report_end, report_start
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
        "import sys; from alignkit.run.launch.launched import run_launched;"
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
    command = accelerate_command(profile("zero2-cpu"), [], processes=None, gpus=None, environ=os.environ)
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
