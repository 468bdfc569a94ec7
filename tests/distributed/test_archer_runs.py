"""ArCHer under ZeRO-3, its slow critic in shards: a killed run goes on bit for bit, and one process goes on from it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from safetensors import safe_open

from tests.distributed.ranks import ROOT
from tests.distributed.test_zero_runs import (
    ENDS_WITHIN_S,
    PROFILES,
    finish,
    folder,
    ranks_of,
    rows,
    start,
    wait_for_steps,
)
from tests.resume.runs import fingerprint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
__all__ = ["folder"]  # the fixture
STEPS = 8
RECIPE = f"""
extends: {ROOT}/recipes/smoke/guess-number-archer.yaml
model: {{scratch: {{layers: 2, hidden: 32}}}}
evaluation: null
checkpoints: {{every: 2, keep: 20}}
stages:
  - name: sft
    optimizer: {{warmup_steps: 0, eps: 1e-3}}
    train: {{steps: 1, batch: 12}}
  - name: archer
    rollouts: {{prompts: 4}}
    critic: {{epochs: 1, minibatches: 2}}
    optimizer: {{warmup_steps: 0, eps: 1e-3}}
    train: {{steps: {STEPS - 1}, batch: 12, critic_warmup_steps: 2, micro_batch_tokens: 60}}
"""
ARGUMENTS = ("archer.yaml", "--launch", PROFILES["zero3"])


def slow_critic(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each weight of the slow critic in a checkpoint, of all files together."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted((checkpoint / "critic-target").glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return found


def test_a_killed_run_resumes_bit_for_bit_and_one_process_goes_on_from_its_checkpoint(folder: Path):
    (folder / "archer.yaml").write_text(RECIPE)
    straight, killed = folder / "runs" / "archer", folder / "runs" / "archer-killed"
    finish(start(folder, *ARGUMENTS, f"run={straight}"))
    process = start(folder, *ARGUMENTS, f"run={killed}")
    wait_for_steps(killed, process, 4)
    everyone = psutil.Process(process.pid).children(recursive=True)
    os.kill(ranks_of(process)[1].pid, signal.SIGKILL)
    begun = time.monotonic()
    finish(process, None)
    assert time.monotonic() - begun < ENDS_WITHIN_S
    assert not psutil.wait_procs(everyone, timeout=60)[1]
    finish(start(folder, *ARGUMENTS, f"run={killed}", "--resume"))
    assert fingerprint(killed) == fingerprint(straight)

    last = killed / "checkpoints" / "step-000006"
    assert [file.name for file in sorted((last / "critic-target").iterdir())] == [
        "target-0.safetensors", "target-1.safetensors"
    ]  # fmt: skip
    for later in sorted((killed / "checkpoints").iterdir()):
        if later.name > last.name:
            later.rename(folder / f"put-away-{later.name}")
    finish(start(folder, "archer.yaml", f"run={killed}", "--resume"))
    alone = killed / "checkpoints" / f"step-{STEPS:06d}"
    assert [file.name for file in (alone / "critic-target").iterdir()] == ["target.safetensors"]
    assert slow_critic(alone) == slow_critic(last)
    for expected, got in zip(rows(straight), rows(killed), strict=True):
        for name in ("loss/critic", "loss/policy"):
            if name in expected:
                assert got[name] == pytest.approx(expected[name], rel=2e-5, abs=2e-6), f"step {got['step']}: {name}"
