"""The driver of a Ray job: one command on each of several machines (`python -m alignkit.run.launch.ray_machines`).

A placement group holds the machines together: all of them or none. On each an actor runs the command with MACHINE_RANK
and MASTER_ADDR, which is what `--launch multi-node` asks for.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignkit.errors import AlignkitError, first_line
from alignkit.run.launch.launched import exit_code

PLACE_S = 600
"""Seconds in which the cluster must have room for all machines."""


class Machine:
    """An actor on one machine; `run` and `stop` are called at the same time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def address(self) -> str:
        import ray.util

        return ray.util.get_node_ip_address()

    def run(self, command: Sequence[str], folder: str, variables: dict[str, str]) -> int:
        """Runs the command to its end; its exit code."""
        self._process = subprocess.Popen(command, cwd=folder, env={**os.environ, **variables})
        if self._stopped:
            self._process.terminate()
        return self._process.wait()

    def stop(self) -> None:
        """Asks the command for a checkpoint and an end, as a batch system does."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()


def run_on_machines(command: Sequence[str], folder: Path, *, machines: int, gpus: int, cpus: int) -> int:
    """Runs the command once on each machine of the cluster to which this process belongs; the run's exit code.

    Raises AlignkitError when the cluster has no room. SIGTERM is handed to the commands. A machine that is lost ends
    the others, with exit code 1.
    """
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle: dict[str, float] = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    group = placement_group([bundle] * machines, strategy="STRICT_SPREAD")
    try:
        ray.get(group.ready(), timeout=PLACE_S)
    except GetTimeoutError as error:
        room = f"{machines} machines with {cpus} CPUs and {gpus} GPUs each"
        raise AlignkitError(f"the Ray cluster had no room for {room} within {PLACE_S} s; see `ray status`") from error
    actor: Any = ray.remote(Machine)
    placed = [
        actor.options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_concurrency=2,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
        ).remote()
        for number in range(machines)
    ]
    first = ray.get(placed[0].address.remote())
    running = {
        one.run.remote(list(command), str(folder), {"MACHINE_RANK": str(number), "MASTER_ADDR": first}): number
        for number, one in enumerate(placed)
    }
    before = signal.signal(signal.SIGTERM, lambda *_: [one.stop.remote() for one in placed])
    try:
        return exit_code(_codes(ray, running, placed))
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.util.remove_placement_group(group)


def _codes(ray: Any, running: dict[Any, int], placed: Sequence[Any]) -> list[int]:
    codes, left = [], list(running)
    while left:
        (done, *_), left = ray.wait(left)
        try:
            codes.append(ray.get(done))
        except ray.exceptions.RayActorError as error:
            print(f"machine {running[done]} is lost: {first_line(error)}", file=sys.stderr)
            codes.insert(0, 1)
            for one in placed:
                one.stop.remote()
    return codes


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(prog="alignkit.run.launch.ray_machines", description=__doc__)
    for name in ("machines", "gpus", "cpus"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    ray.init()
    sizes = {name: getattr(asked, name) for name in ("machines", "gpus", "cpus")}
    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    try:
        code = run_on_machines(command, asked.folder, **sizes)
    except AlignkitError as error:
        sys.exit(str(error))
    sys.exit(code)


if __name__ == "__main__":
    main()
