"""What `alignkit doctor` looks at: facts about this machine and this environment, gathered without importing torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from packaging.utils import canonicalize_name

from alignkit.run.launch.gpus import visible_gpus

QUERY = ("name", "memory.total", "memory.free", "compute_cap", "driver_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card as the driver describes it. capability: such as (9, 0); None where an old driver does not say."""

    name: str
    total_gib: float
    free_gib: float
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts, none of them judged.

    packages: installed version by name. requirements: alignkit's own, as its metadata lists them; None when it is not
    installed. gpus: the visible ones. driver_cuda, torch_cuda: versions such as (13, 0); None without a driver, and
    for a torch that was built for CPUs. driver_files: whether the kernel has NVIDIA's devices. compiler: what Triton
    would compile with. memory_gib: free; None where the system does not say. sandbox: what locks in the programs of
    the code reward, and whether that is enough.
    """

    python: str
    packages: Mapping[str, str]
    requirements: tuple[str, ...] | None
    cores: int
    memory_gib: float | None
    disk_gib: float
    sandbox: tuple[str, bool]
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    driver_cuda: tuple[int, int] | None = None
    driver_files: bool = False
    torch_cuda: tuple[int, int] | None = None
    compiler: str | None = None
    python_header: bool = False


def this_machine() -> Machine:
    """Looks around; asks nvidia-smi, tries the sandbox in a process of its own, and changes nothing."""
    gpus, driver = _gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        python=platform.python_version(),
        packages=installed(),
        requirements=_requirements(),
        cores=cores,
        memory_gib=_memory_gib(),
        disk_gib=shutil.disk_usage(os.getcwd()).free / 2**30,
        sandbox=_sandbox(),
        gpus=gpus[: visible_gpus(os.environ)],
        driver=driver,
        driver_cuda=_driver_cuda() if driver else None,
        driver_files=Path("/dev/nvidiactl").exists(),
        torch_cuda=_torch_cuda(),
        compiler=_compiler(os.environ),
        python_header=Path(sysconfig.get_path("include"), "Python.h").is_file(),
    )


def installed() -> dict[str, str]:
    """Version of every installed distribution by its canonical name. Nothing is imported."""
    return {
        canonicalize_name(name): one.version
        for one in importlib.metadata.distributions()
        if (name := one.metadata["Name"])
    }


def _requirements() -> tuple[str, ...] | None:
    try:
        return tuple(importlib.metadata.requires("alignkit") or ())
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """All cards, and the driver's version; nothing where nvidia-smi is absent or fails."""
    text = _nvidia_smi(f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits")
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    rows = [row for row in rows if len(row) == len(QUERY)]
    gpus = tuple(
        Gpu(name=name, total_gib=_gib(total), free_gib=_gib(free), capability=version(capability))
        for name, total, free, capability, _ in rows
    )
    return gpus, rows[0][-1] if rows else None


def _driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver speaks, from the header of nvidia-smi's own page."""
    found = re.search(r"CUDA (?:UMD )?Version:\s*([\d.]+)", _nvidia_smi())
    return version(found[1]) if found else None


def _torch_cuda() -> tuple[int, int] | None:
    """The CUDA that the installed torch was built for, read from its version file."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("version.py")
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", file.read_text() if file.is_file() else "", re.MULTILINE)
    return version(found[1]) if found else None


def version(text: str) -> tuple[int, int] | None:
    """ "13.0" -> (13, 0); None for what is no version."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _nvidia_smi(*arguments: str) -> str:
    try:
        result = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _gib(mebibytes: str) -> float:
    return float(mebibytes) / 1024 if re.fullmatch(r"[\d.]+", mebibytes) else 0.0


def _compiler(environ: Mapping[str, str]) -> str | None:
    """The C compiler in the order in which Triton looks for one."""
    named = environ.get("CC")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, ("gcc", "clang", "cc"))), None)


def _memory_gib() -> float | None:
    """Memory that could be used now, in GiB; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
    except OSError:
        return None
    return int(lines["MemAvailable"].split()[0]) / 2**20


def _sandbox() -> tuple[str, bool]:
    from alignkit.sandbox.isolation import available

    isolation = available()
    return str(isolation), isolation.is_enough
