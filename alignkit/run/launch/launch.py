"""Starts a run on several processes: the command line that re-executes alignkit under `accelerate launch` or Slurm.

A profile is a file of launch/: an accelerate config (which may name a DeepSpeed JSON), or a Slurm template. Nothing
here imports accelerate, torch or deepspeed.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.errors import AlignkitError, ContentError
from alignkit.recipe.document import read_document
from alignkit.recipe.lookup.find import KINDS, Found, find
from alignkit.recipe.lookup.secrets import with_secrets
from alignkit.types.scratch import scratch

EXIT_PREEMPTED = 85  # the run wrote a checkpoint because it was asked to stop
DEEPSPEED_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
REPORT_FOLDER = "ALIGNKIT_REPORT_FOLDER"
CPUS_PER_GPU = 4  # that a Slurm job asks for at least; a machine that is its alone gives it all it has
LAUNCHER_MARKS = ("RANK", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION")


def is_launched(environ: Mapping[str, str]) -> bool:
    """Whether this process was started by `accelerate launch`, torchrun or the like, and must not launch again."""
    return any(mark in environ for mark in LAUNCHER_MARKS)


def accelerate_command(
    profile: Found, arguments: Sequence[str], *, processes: int | None, gpus: int | None, environ: Mapping[str, str]
) -> list[str]:
    """The exact command that runs `alignkit ARGUMENTS` under an accelerate profile.

    processes: total number, instead of the profile's; a profile without one has a process for each GPU. gpus: visible
    on this machine, None to ask nothing of it. A profile of several machines takes this machine's number from
    MACHINE_RANK (or SLURM_NODEID) and the first machine's address from MASTER_ADDR.
    Raises ContentError when the profile's DeepSpeed file is missing, AlignkitError when those variables are, or when
    more processes are asked for than there are GPUs.
    """
    config = read_document(profile.path, profile.path.name).tree
    command = [_accelerate(), "launch", "--config_file", str(profile.path)]
    deepspeed = (config.get("deepspeed_config") or {}).get("deepspeed_config_file")
    if deepspeed:
        command += ["--deepspeed_config_file", str(_locate_deepspeed(deepspeed, profile.path.parent))]
    if gpus is not None and _on_gpus(config):
        processes = _fitting(profile.name, config, processes, gpus)
    if processes is not None:
        command += ["--num_processes", str(processes)]
    if config.get("num_machines", 1) > 1:
        rank = environ.get("MACHINE_RANK", environ.get("SLURM_NODEID"))
        if rank is None or "MASTER_ADDR" not in environ:
            raise AlignkitError(
                f"launch profile '{profile.name}' runs on {config['num_machines']} machines: on each, set MACHINE_RANK "
                "(0, 1, ...) and MASTER_ADDR (name of machine 0); or use --launch slurm"
            )
        command += ["--machine_rank", rank, "--main_process_ip", environ["MASTER_ADDR"]]
    return [*command, "-m", "alignkit", *arguments]


def visible_gpus(environ: Mapping[str, str]) -> int:
    """GPUs that a process started here would see: those of CUDA_VISIBLE_DEVICES, else all that the driver lists."""
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        devices = [device.strip() for device in named.split(",")]
        return next((place for place, device in enumerate(devices) if device in ("", "-1")), len(devices))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def sharding_of(profile: Found) -> tuple[int | None, dict[str, Any] | None]:
    """(processes of an accelerate profile, None: one for each GPU; what its DeepSpeed file says, None without)."""
    config = read_document(profile.path, profile.path.name).tree
    deepspeed = (config.get("deepspeed_config") or {}).get("deepspeed_config_file")
    settings = json.loads(_locate_deepspeed(deepspeed, profile.path.parent).read_text()) if deepspeed else None
    return config.get("num_processes"), settings


def slurm_script(profile: Found, arguments: Sequence[str], *, job_name: str, beside: Path | None) -> str:
    """The batch script of a Slurm profile: on each machine `alignkit ARGUMENTS --launch multi-node`."""
    from jinja2 import Environment, StrictUndefined

    nodes = read_document(find("launch", "multi-node", beside=beside).path, "multi-node").tree
    command = [sys.executable, "-m", "alignkit", *arguments, "--launch", "multi-node"]
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(profile.path.read_text())
    return template.render(
        job_name=job_name,
        nodes=nodes["num_machines"],
        gpus_per_node=nodes["num_processes"] // nodes["num_machines"],
        cpus_per_node=CPUS_PER_GPU * nodes["num_processes"] // nodes["num_machines"],
        command=shlex.join(command),
    )


def quiet(command: Sequence[str]) -> list[str]:
    """The same `accelerate launch` without the traceback with which it answers a failure of what it started."""
    return [sys.executable, "-m", "alignkit.run.launch.quiet_launch", *command[1:]]


def run_launched(command: Sequence[str]) -> int:
    """Runs the command to its end and returns the exit code that its alignkit processes reported.

    SIGTERM is handed to the alignkit processes themselves, which write a checkpoint and leave with exit code 85; the
    launcher between would give them too little time. Ctrl-C reaches all processes by itself.
    """
    asked = False
    with scratch() as folder:
        process = subprocess.Popen(command, env={**with_secrets(), REPORT_FOLDER: str(folder)})

        def stop(*_: object) -> None:
            nonlocal asked
            asked = True
            _stop(process, folder)

        before = signal.signal(signal.SIGTERM, stop)
        try:
            code = _wait(process)
        finally:
            signal.signal(signal.SIGTERM, before)
        if asked and not _reports(folder):
            return EXIT_PREEMPTED  # before any of its processes had begun
        return reported_code(folder, code)


def submit(script: str) -> str:
    """Hands a batch script to Slurm and returns its answer. Raises AlignkitError when Slurm does not take it."""
    try:
        result = subprocess.run(
            ["sbatch"], input=script, text=True, capture_output=True, check=False, env=with_secrets()
        )
    except FileNotFoundError as error:
        raise AlignkitError("there is no `sbatch` here; add --print and submit the script where Slurm is") from error
    if result.returncode:
        raise AlignkitError(f"sbatch refused the job: {result.stderr.strip() or result.returncode}")
    return result.stdout.strip()


def report_start(environ: Mapping[str, str]) -> None:
    """A launched process says that it lives: its file in the launching process's folder holds its id."""
    file = _report_file(environ)
    if file is not None:
        file.write_text(str(os.getpid()))


def report_end(environ: Mapping[str, str], code: int) -> int:
    """A launched process notes its exit code, and returns the one to leave with.

    Stopping with a checkpoint is no failure for the launcher in between, which would kill the others over it.
    """
    file = _report_file(environ)
    if file is None:
        return code
    file.write_text(f"{os.getpid()} {code}")
    return 0 if code == EXIT_PREEMPTED else code


def reported_code(folder: Path, launcher_code: int) -> int:
    """The run's exit code: the first real failure, else 85 if a process was preempted, else the launcher's own."""
    reports = [file.read_text().split() for file in _reports(folder)]
    if any(len(report) < 2 for report in reports):
        return launcher_code or 1  # a process died without a word
    codes = [int(code) for _, code in reports]
    failures = [code for code in codes if code not in (0, EXIT_PREEMPTED)]
    if failures:
        return failures[0]
    return EXIT_PREEMPTED if EXIT_PREEMPTED in codes else launcher_code


def deepspeed_file(environ: Mapping[str, str]) -> Path | None:
    """The DeepSpeed JSON of this launched process, or None when it runs without DeepSpeed.

    Raises ContentError when the profile names a file that does not exist.
    """
    named = environ.get(DEEPSPEED_FILE)
    return _locate_deepspeed(named, Path()) if named else None


def _on_gpus(config: Mapping[str, Any]) -> bool:
    """Whether a profile's processes are one a GPU: it neither forbids them nor hides them."""
    return not config.get("use_cpu") and config.get("gpu_ids") != ""


def _fitting(name: str, config: Mapping[str, Any], processes: int | None, gpus: int) -> int:
    """How many processes a GPU profile gets in all. Raises AlignkitError when this machine's share has no GPUs."""
    machines = config.get("num_machines", 1)
    wanted = processes or config.get("num_processes") or gpus * machines
    here = f"{gpus} visible here" if gpus else "none is visible here (nvidia-smi -L, CUDA_VISIBLE_DEVICES)"
    cure = f"--processes {gpus * machines}" if gpus else "a CPU profile such as zero2-cpu"
    if not gpus or wanted > gpus * machines:
        asked = f"wants {wanted} GPUs" if wanted else "wants a GPU for each process"
        on = f" on {machines} machines" if machines > 1 else ""
        raise AlignkitError(f"launch profile '{name}' {asked}{on}, {here}: use {cure}")
    return wanted


def _locate_deepspeed(named: str, beside: Path) -> Path:
    """Relative names are looked up in the working folder, beside the profile, and on the shelf."""
    for folder in (Path(), beside, KINDS["launch"].shelf.parent):
        path = (folder / named).resolve()
        if path.is_file():
            return path
    raise ContentError(f"launch profile: there is no DeepSpeed file '{named}' here, beside the profile or on the shelf")


def _accelerate() -> str:
    """The accelerate command of this very environment."""
    beside = Path(sys.executable).with_name("accelerate")
    return str(beside) if beside.is_file() else "accelerate"


def _report_file(environ: Mapping[str, str]) -> Path | None:
    folder = environ.get(REPORT_FOLDER)
    return Path(folder) / environ.get("LOCAL_RANK", "0") if folder else None


def _reports(folder: Path) -> list[Path]:
    """One file a process, named by its rank."""
    return sorted(file for file in folder.iterdir() if file.name.isdigit())


def _stop(process: subprocess.Popen[Any], folder: Path) -> None:
    workers = [int(file.read_text().split()[0]) for file in _reports(folder)]
    for worker in workers or [process.pid]:
        try:
            os.kill(worker, signal.SIGTERM)
        except ProcessLookupError:
            continue  # it has just ended by itself


def _wait(process: subprocess.Popen[Any]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the processes got it too; their end is awaited
