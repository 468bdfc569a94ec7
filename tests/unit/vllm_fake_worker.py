"""Stands in for vLLM in test_vllm_process.py: the real engine process around a worker that misbehaves when asked to."""

import os
import sys
import time
from typing import Any
from unittest import mock

from alignkit.engines.vllm import worker as vllm_worker
from alignkit.weights.shared_weights import Table, map_tensors


class FakeWorker:
    def __init__(self, start: dict[str, Any]):
        if "broken" in start["model_folder"]:
            raise ValueError("this model cannot be loaded")
        if "hanging" in start["model_folder"]:
            time.sleep(1000)
        self.table, self.descriptor = Table.from_json(start["table"]), os.open(start["path"], os.O_RDWR)
        self.version = start["version"]

    def generate(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Each completion repeats the prompt; the first request's seed names the misbehaviour."""
        completions: list[dict[str, Any]] = [
            {"token_ids": request["prompt_ids"], "logprobs": [-1.0] * len(request["prompt_ids"]), "finish": "length"}
            for request in requests
        ]
        match requests[0]["seed"]:
            case 1:
                time.sleep(1000)
            case 2:
                raise RuntimeError("a kernel failed")
            case 3:
                return {"completions": completions, "version": self.version + 2}
            case 4:
                completions[0]["logprobs"][0] = float("nan")
            case 5:
                sys.exit(7)
            case 6:
                print("x" * 100_000, file=sys.stderr)
                completions[0]["token_ids"] *= 100_000
                completions[0]["logprobs"] *= 100_000
        return {"completions": completions, "version": self.version}

    def score(self, sequences: list[list[int]]) -> dict[str, Any]:
        """Not scores: the sum of every tensor that lies in the shared memory now."""
        tensors = map_tensors(self.descriptor, self.table)
        return {"scores": [[tensors[name].double().sum().item()] for name in sorted(tensors)], "version": self.version}

    def update(self, version: int, base: bool) -> dict[str, Any]:
        self.version = version
        return {"stale": [], "unknown": [], "version": version}


if __name__ == "__main__":
    with mock.patch.object(vllm_worker, "EngineWorker", FakeWorker):
        vllm_worker.main()
