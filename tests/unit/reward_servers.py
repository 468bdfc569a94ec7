"""Servers of rewards on the loopback, good and bad, and what their client made of them."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import closing, contextmanager, suppress

import pytest

from alignkit.rewards.serve.remote import RemoteReward
from tests.unit.loopback import Scripted
from tests.unit.reward_rollouts import question, rollouts

pytest.importorskip("httpx")
pytest.importorskip("uvicorn")


def lengths(body):
    """What a good server answers to /score: the length of each text."""
    wire = [[{"value": float(len(turns[-1]["text"]))} for turns in g["completions"]] for g in body["groups"]]
    return {"reward": "lengths", "fingerprint": "f", "scores": wire}


def server(answer=lambda body, number: (200, lengths(body)), *, per_rollout=True):
    """A Scripted application whose /score does what `answer(body, number)` says."""

    def script(path, body, number):
        if path == "/health":
            return 200, {"reward": "lengths", "fingerprint": "f", "per_rollout": per_rollout}
        return answer(body, number)

    return Scripted(script)


def scores(url, texts, *, reward=None, **options):
    task = question(reference="1")
    reward = reward or RemoteReward(url, **options)
    found = asyncio.run(reward.score(task, rollouts(task, *texts)))
    assert len(found) == len(texts)
    return found


def values(found):
    return [score.value for score in found]


def kinds(found):
    assert all((score.value is None) == (score.fault is not None) for score in found)
    return {score.fault.kind for score in found if score.fault}


@contextmanager
def raw_server(behave):
    """A socket server whose connections are handled by `behave(connection, number)`."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.05)
    stop = threading.Event()

    def run():
        number = 0
        while not stop.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            threading.Thread(target=_quietly, args=(behave, connection, number), daemon=True).start()
            number += 1

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        stop.set()
        thread.join()
        listening.close()


def _quietly(behave, connection, number):
    with closing(connection), suppress(OSError):
        behave(connection, number)
