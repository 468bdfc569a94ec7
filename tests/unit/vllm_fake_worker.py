"""Stands in for vLLM in test_vllm_process.py: the real engine process around a worker that misbehaves when asked to."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from alignkit.engines.vllm import worker as vllm_worker
from alignkit.engines.wire import IDS, LOGPROBS, from_text, to_text
from alignkit.weights.shared_weights import Table, map_tensors


class FakeWorker:
    def __init__(self, start: dict[str, Any]):
        if "broken" in start["model_folder"]:
            raise ValueError("this model cannot be loaded")
        if "hanging" in start["model_folder"]:
            time.sleep(1000)
        self.table, self.descriptor = Table.from_json(start["table"]), os.open(start["path"], os.O_RDWR)
        self.version, self.requests = start["version"], list[dict[str, Any]]()
        self.name, self.held = Path(start["model_folder"]).name, dict[str, Any]()
        if start["memory"]:
            self.take()

    def take(self) -> None:
        self.held = {name: tensor.clone() for name, tensor in map_tensors(self.descriptor, self.table).items()}

    @property
    def busy(self) -> bool:
        return bool(self.requests)

    def sample(self, requests: list[dict[str, Any]], lockstep: bool) -> None:
        self.requests += requests

    def step(self) -> list[tuple[int, dict[str, Any]]]:
        """The newest completion repeats its prompt; its request's seed names the misbehaviour."""
        request, version = self.requests.pop(), self.version
        token_ids = from_text(request["prompt_ids"], IDS).tolist()
        logprobs = [-1.0] * len(token_ids)
        match request["seed"]:
            case 1:
                time.sleep(1000)
            case 2:
                raise RuntimeError("a kernel failed")
            case 3:
                version += 2
            case 4:
                logprobs[0] = float("nan")
            case 5:
                sys.exit(7)
            case 6:
                print("x" * 100_000, file=sys.stderr)
                token_ids, logprobs = token_ids * 100_000, logprobs * 100_000
        said = {"token_ids": to_text(token_ids, IDS), "logprobs": to_text(logprobs, LOGPROBS), "finish": "length"}
        return [(request["number"], {**said, "version": version})]

    def score(self, sequences: list[list[int]]) -> dict[str, Any]:
        """Not scores: the sum of every tensor that it has loaded."""
        sums = [[self.held[name].double().sum().item()] for name in sorted(self.held)]
        return {"scores": sums, "version": self.version}

    def update(self, version: int, base: bool) -> dict[str, Any]:
        if self.name.startswith("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if base:
            self.take()
        self.version = version
        return {"stale": [], "unknown": [], "version": version}


if __name__ == "__main__":
    with mock.patch.object(vllm_worker, "EngineWorker", FakeWorker):
        vllm_worker.main()
