"""On GPUs ranks speak through host memory: two real processes, gloo for the CPU, a fake group in NCCL's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.parallel.group import BACKENDS, COLLECTIVE, WAIT
from tests.distributed.ranks import run_ranks


def ranks(backends: str, folder: Path, *, late_s: float) -> list[dict]:
    run_ranks(["-m", "tests.distributed.mixed_group", backends, str(folder), str(late_s)], world=2, timeout_s=90)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def test_host_tensors_and_objects_reach_the_other_rank_and_waiting_outlasts_the_kernels_limit(tmp_path: Path):
    """The second rank comes 4 s late where the default group gives up after 2."""
    found = ranks("cpu:gloo,cuda:fake", tmp_path, late_s=4)
    for rank, said in enumerate(found):
        assert said == {
            "devices": [rank],
            "type": "FakeProcessGroup",
            "default group": "done",
            "sum": [3.0, 20.0],
            "first": {"from": 0},
            "all": ["rank 0", "rank 1"],
        }


def test_a_group_for_gpus_alone_would_have_failed_at_the_first_host_tensor(tmp_path: Path):
    for said in ranks("cuda:fake", tmp_path, late_s=0):
        assert "No backend type associated with device type cpu" in said["default group"]
        assert said["all"] == ["rank 0", "rank 1"]  # our own traffic has a gloo group of its own


def test_gpu_ranks_use_nccl_for_devices_and_gloo_for_the_host_and_wait_on_gloo_only():
    assert BACKENDS == {"cpu": "cpu:gloo", "cuda": "cpu:gloo,cuda:nccl"}
    assert COLLECTIVE.total_seconds() == pytest.approx(600)
    assert WAIT.total_seconds() >= 3600 * 12
