"""Two machines on this one: the profile `multi-node`, started once on each, over the loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.ranks import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
RECIPE = """
seed: 3
model:
  scratch: {characters: "0123456789+=", layers: 2, hidden: 32, heads: 4, context: 16}
  dtype: float32
data:
  source: generator:arithmetic
  options: {digits: 2, operations: "+", style: characters, reversed: true}
  chat: false
  max_prompt_tokens: 8
algorithm: {type: sft}
optimizer: {lr: 3e-3}
train: {steps: 3, batch: 16, micro_batch_tokens: 40}
"""


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alignkit", "train", "sft.yaml", *arguments],
        cwd=folder,
        env={**environment(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes: subprocess.Popen[str]) -> None:
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_machines_train_three_steps_and_say_what_one_process_says(tmp_path: Path):
    """The shipped profile but for its numbers: no GPUs, one process a machine, a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shipped = (ROOT / "launch" / "accelerate" / "multi-node.yaml").read_text()
    changed = {"gpu_ids: all": 'gpu_ids: ""', "num_processes: 16": "num_processes: 2", "29500": str(port)}
    for old, new in changed.items():
        assert shipped.count(old) == 1
        shipped = shipped.replace(old, new)
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "two.yaml").write_text(shipped)
    (tmp_path / "sft.yaml").write_text(RECIPE)
    finish(start(tmp_path, "run=alone"))
    launch = ("run=two", "--launch", "two")
    finish(*(start(tmp_path, *launch, MACHINE_RANK=rank, MASTER_ADDR="127.0.0.1") for rank in ("0", "1")))
    alone, two = rows(tmp_path / "alone"), rows(tmp_path / "two")
    assert len(alone) == len(two) == 3
    for expected, got in zip(alone, two, strict=True):
        for name in ("loss/policy", "optim/grad_norm"):
            assert got[name] == pytest.approx(expected[name], rel=3e-6, abs=1e-6), f"step {got['step']}: {name}"
    assert (tmp_path / "two" / "final" / "model.safetensors").is_file()
