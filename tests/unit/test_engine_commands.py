"""The order in which the engine's process does what it is told: who joins, who waits, and for what."""

from __future__ import annotations

import queue
import socket
import threading
from typing import Any

from alignkit.engines.vllm.worker import _serve
from alignkit.processes.channel import Channel


class Worker:
    """Ends the oldest of its requests at each step, and writes down what it does."""

    def __init__(self) -> None:
        self.left: list[int] = []
        self.did: list[str] = []

    @property
    def busy(self) -> bool:
        return bool(self.left)

    def sample(self, requests: list[dict[str, Any]], lockstep: bool) -> None:
        assert not (lockstep and self.left), "a call in lockstep begins alone"
        self.left += [request["number"] for request in requests]
        self.did.append(f"sample {[request['number'] for request in requests]}")

    def step(self) -> list[tuple[int, dict[str, Any]]]:
        number = self.left.pop(0)
        self.did.append(f"end {number}")
        return [(number, {"said": number})]

    def update(self, version: int) -> dict[str, Any]:
        assert not self.left, "weights do not change under a request"
        self.did.append(f"update {version}")
        return {"version": version}


def sample(*numbers: int, lockstep: bool) -> dict[str, Any]:
    asked = [{"number": number} for number in numbers]
    return {"number": None, "do": "sample", "lockstep": lockstep, "requests": asked}


def test_single_requests_join_and_lockstep_and_updates_wait_until_all_was_told():
    ours, theirs = map(Channel, socket.socketpair())
    worker, commands = Worker(), queue.SimpleQueue[dict[str, Any]]()
    for command in (
        sample(1, 2, lockstep=True),
        sample(3, lockstep=False),
        {"number": 10, "do": "update", "version": 7},
        sample(4, lockstep=False),
        sample(5, lockstep=False),
        sample(6, 7, lockstep=True),
    ):
        commands.put(command)
    threading.Thread(target=_serve, args=(worker, theirs, commands), daemon=True).start()
    answers = [ours.receive(timeout_s=60) for _ in range(8)]
    assert [answer["number"] for answer in answers] == [1, 2, 3, 10, 4, 5, 6, 7]
    assert answers[3]["answer"] == {"version": 7}
    assert worker.did == [
        "sample [1, 2]",
        "sample [3]",
        "end 1",
        "end 2",
        "end 3",
        "update 7",
        "sample [4]",
        "sample [5]",
        "end 4",
        "end 5",
        "sample [6, 7]",
        "end 6",
        "end 7",
    ]
