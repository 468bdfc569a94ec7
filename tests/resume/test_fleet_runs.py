"""Whole runs whose samples come from several engines: those of one, servers that are killed, and exact resume."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.resume.runs import fingerprint, write_recipe

pytestmark = pytest.mark.slow
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ALIGNKIT_TOKEN": "a-token-for-the-tests"}
VLLM = (
    "rollouts.engine=vllm",
    "model.scratch.hidden=64",
    "model.scratch.context=32",
    "rollouts.memory_gib=1",
    "rollouts.canary_tolerance=0.01",
)
TOGETHER_S = 900.0


def start(*command: str, output: Any = subprocess.DEVNULL) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "alignkit", *command],
        env=ENVIRONMENT,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def train(recipe: Path, run: Path, *overrides: str) -> None:
    with (run.parent / f"{run.name}.log").open("wb") as log:
        assert start("train", str(recipe), f"run={run}", *overrides, output=log).wait(TOGETHER_S) == 0


@contextmanager
def replicas(url: str, count: int) -> Iterator[list[subprocess.Popen]]:
    begun = [start("replica", url) for _ in range(count)]
    try:
        yield begun
    finally:
        for one in begun:
            one.kill()
            one.wait()


def steps_of(run: Path) -> int:
    return len((run / "metrics.jsonl").read_bytes().splitlines()) if (run / "metrics.jsonl").exists() else 0


def served_at(port: int) -> tuple[str, ...]:
    return ("engine.placement=servers", "engine.replicas=2", f"engine.listen=127.0.0.1:{port}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def assert_alike(ours: dict[str, Any], theirs: dict[str, Any], *, within: float) -> None:
    """Same prompts, and every metric up to rounding."""
    assert ours["prompts"] == theirs["prompts"]
    for mine, others in zip(ours["metrics"], theirs["metrics"], strict=True):
        assert mine.keys() == others.keys()
        for name, value in mine.items():
            expected = pytest.approx(others[name], abs=within) if isinstance(value, float) else others[name]
            assert value == expected, name


def test_servers_train_as_the_colocated_engine_does_also_when_one_is_killed_in_the_middle(tmp_path: Path):
    """The hf engine in float32: samples are equal, and with them all metrics (up to rounding) of 20 steps."""
    recipe = write_recipe(tmp_path, steps=20, every=100)
    train(recipe, tmp_path / "colocated")
    port = free_port()
    with replicas(f"http://127.0.0.1:{port}", 2) as servers:
        served = start("train", str(recipe), f"run={tmp_path / 'served'}", *served_at(port))
        while served.poll() is None and steps_of(tmp_path / "served") < 12:  # 5 of them are SFT
            time.sleep(0.02)
        assert served.poll() is None, "one is killed while the run goes on"
        os.killpg(servers[0].pid, signal.SIGKILL)
        assert served.wait(TOGETHER_S) == 0
    assert_alike(fingerprint(tmp_path / "served"), fingerprint(tmp_path / "colocated"), within=1e-5)


def test_a_killed_run_that_is_resumed_finds_its_servers_again_and_has_the_bits_of_one_that_never_stopped(
    tmp_path: Path,
):
    recipe = write_recipe(tmp_path, steps=20, every=4)
    port, run = free_port(), tmp_path / "served"
    with replicas(f"http://127.0.0.1:{port}", 2):
        train(recipe, tmp_path / "straight", *served_at(port))
        broken = start("train", str(recipe), f"run={run}", *served_at(port))
        while broken.poll() is None and steps_of(run) < 16:
            time.sleep(0.02)
        os.killpg(broken.pid, signal.SIGKILL)
        broken.wait()
        train(recipe, run, *served_at(port), "--resume")
    assert fingerprint(run) == fingerprint(tmp_path / "straight")


@needs_vllm
def test_two_replicas_train_as_one_and_a_resumed_run_has_the_bits_of_one_that_never_stopped(tmp_path: Path):
    recipe = write_recipe(tmp_path, steps=6, every=2)
    train(recipe, tmp_path / "one", *VLLM)
    two = (*VLLM, "engine.replicas=2")
    train(recipe, tmp_path / "two", *two)
    assert_alike(fingerprint(tmp_path / "two"), fingerprint(tmp_path / "one"), within=1e-4)
    broken = start("train", str(recipe), f"run={tmp_path / 'broken'}", *two)
    while broken.poll() is None and steps_of(tmp_path / "broken") < 9:
        time.sleep(0.02)
    os.killpg(broken.pid, signal.SIGKILL)
    broken.wait()
    train(recipe, tmp_path / "broken", *two, "--resume")
    assert fingerprint(tmp_path / "broken") == fingerprint(tmp_path / "two")


@needs_vllm
def test_two_replicas_of_two_workers_each_train_as_one_engine(tmp_path: Path):
    recipe = write_recipe(tmp_path, steps=4, every=100)
    train(recipe, tmp_path / "one", *VLLM)
    train(recipe, tmp_path / "cut", *VLLM, "engine.replicas=2", "engine.tensor_parallel=2")
    assert_alike(fingerprint(tmp_path / "cut"), fingerprint(tmp_path / "one"), within=1e-4)
