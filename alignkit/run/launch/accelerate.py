"""The command line that re-executes alignkit under `accelerate launch`.

A profile is an accelerate config, which may name a DeepSpeed file. Nothing here imports accelerate, torch or deepspeed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.errors import AlignkitError
from alignkit.recipe.document import read_document
from alignkit.recipe.lookup.find import Found
from alignkit.run.launch.deepspeed_file import locate_deepspeed


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
        command += ["--deepspeed_config_file", str(locate_deepspeed(deepspeed, profile.path.parent))]
    if gpus is not None and _on_gpus(config):
        processes = _fitting(profile.name, config, processes, gpus)
    if processes is not None:
        command += ["--num_processes", str(processes)]
    if config.get("num_machines", 1) > 1:
        rank = environ.get("MACHINE_RANK", environ.get("SLURM_NODEID"))
        if rank is None or "MASTER_ADDR" not in environ:
            raise AlignkitError(
                f"launch profile '{profile.name}' runs on {config['num_machines']} machines: on each, set MACHINE_RANK "
                "(0, 1, ...) and MASTER_ADDR (name of machine 0); or use a profile of a job: slurm, k8s, ray, skypilot"
            )
        command += ["--machine_rank", rank, "--main_process_ip", environ["MASTER_ADDR"]]
    return [*command, "-m", "alignkit", *arguments]


def quiet(command: Sequence[str]) -> list[str]:
    """The same `accelerate launch` without the traceback with which it answers a failure of what it started."""
    return [sys.executable, "-m", "alignkit.run.launch.quiet_launch", *command[1:]]


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


def _accelerate() -> str:
    """The accelerate command of this very environment."""
    beside = Path(sys.executable).with_name("accelerate")
    return str(beside) if beside.is_file() else "accelerate"
