"""A Ray job on a cluster of two machines, both on this one (Ray's own utility): needs `pip install ray`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import AlignkitError
from alignkit.run.launch import ray_machines
from alignkit.run.launch.ray_machines import run_on_machines

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SIZES = {"gpus": 0, "cpus": 2}
TELL = """
import json, os, sys
number = os.environ["MACHINE_RANK"]
json.dump(os.environ["MASTER_ADDR"], open(f"machine-{number}.json", "w"))
sys.exit(int(sys.argv[1]) if number == "1" else 0)
"""
WAIT = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(85))
pathlib.Path(f"ready-{os.environ['MACHINE_RANK']}").touch()
while True:
    time.sleep(0.02)
"""


@pytest.fixture
def cluster() -> Generator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def when_ready(folder: Path, act: Any) -> None:
    """Calls `act` in a thread, once both machines wait."""

    def watch() -> None:
        while len(list(folder.glob("ready-*"))) < 2:
            threading.Event().wait(0.05)
        act()

    threading.Thread(target=watch, daemon=True).start()


def test_each_machine_runs_the_command_once_and_the_first_real_failure_is_the_jobs_code(cluster, tmp_path: Path):
    for code in (0, 85, 3):
        assert run_on_machines([sys.executable, "-c", TELL, str(code)], tmp_path, machines=2, **SIZES) == code
    first = ray.util.get_node_ip_address()
    assert [json.loads((tmp_path / f"machine-{number}.json").read_text()) for number in (0, 1)] == [first, first]


def test_sigterm_reaches_the_commands_and_their_code_comes_back(cluster, tmp_path: Path):
    when_ready(tmp_path, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run_on_machines([sys.executable, "-c", WAIT], tmp_path, machines=2, **SIZES) == 85


def test_a_machine_that_is_lost_ends_the_others_with_a_failure(cluster, tmp_path: Path):
    lost = next(iter(cluster.worker_nodes))
    when_ready(tmp_path, lambda: cluster.remove_node(lost, allow_graceful=False))
    assert run_on_machines([sys.executable, "-c", WAIT], tmp_path, machines=2, **SIZES) == 1


def test_a_cluster_without_room_is_named(cluster, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(ray_machines, "PLACE_S", 2)
    with pytest.raises(AlignkitError, match="no room for 3 machines with 2 CPUs and 0 GPUs each within 2 s"):
        run_on_machines(["true"], tmp_path, machines=3, **SIZES)
