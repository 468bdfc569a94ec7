"""Several workers of one engine without vLLM: their answers as one, their shares of an adapter, and the end of one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.engines.vllm.adapter import stale_matrices
from alignkit.engines.vllm.worker import EngineWorker


def answers(*pairs: tuple[int, list[str]]) -> list[dict[str, Any]]:
    return [{"version": version, "stale": stale, "unknown": ["rope"]} for version, stale in pairs]


def joined(given: list[dict[str, Any]]) -> dict[str, Any]:
    """What the engine says of these answers to an update to version 3."""
    worker = EngineWorker.__new__(EngineWorker)
    worker._llm = SimpleNamespace(reset_prefix_cache=lambda: None, collective_rpc=lambda *a, **k: given)
    worker._adapted, worker._unknown = False, []
    return worker.update(3, base=True)


def test_the_answer_of_one_worker_is_that_of_the_engine_and_of_several_names_them():
    assert joined(answers((3, ["norm"]))) == {"stale": ["norm"], "unknown": ["rope"], "version": 3}
    several = joined(answers((3, []), (3, ["norm", "head"]), (2, [])))
    assert several["stale"] == ["norm of worker 1", "head of worker 1", "all of worker 2"]
    assert several["unknown"] == [f"rope of worker {rank}" for rank in range(3)]


def layer(rank: int, size: int, a: Tensor, b: Tensor) -> Any:
    """A layer of vLLM's with a place for ranks up to 4 that holds these shares."""
    held = [torch.zeros(1, 1, 4, a.shape[1]), torch.zeros(1, 1, b.shape[0], 4)]
    held[0][0, 0, : a.shape[0]], held[1][0, 0, :, : b.shape[1]] = a, b
    return SimpleNamespace(tp_rank=rank, tp_size=size, lora_a_stacked=(held[0],), lora_b_stacked=(held[1],))


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_each_workers_share_of_an_adapter_is_compared_and_a_neighbours_is_not_taken_for_it(size: int):
    """q shares 16 outputs out, v has two heads of 4 that several workers hold, o shares 16 inputs out."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (8, 16), "v": (8, 8), "o": (16, 8)}
    sent = {
        (name, kind): torch.randn((2, inputs) if kind == "lora_A" else (outputs, 2), generator=generator)
        for name, (inputs, outputs) in shapes.items()
        for kind in ("lora_A", "lora_B")
    }

    def modules(rank: int, of: int) -> dict[str, Any]:
        """What worker `rank` of all holds, when it has the shares of worker `of`."""
        q, head, o = 16 // size, of * min(size, 2) // size, 16 // size
        own = 8 // min(size, 2)
        cut = {
            "q": (sent["q", "lora_A"], sent["q", "lora_B"][of * q : (of + 1) * q]),
            "v": (sent["v", "lora_A"], sent["v", "lora_B"][head * own : (head + 1) * own]),
            "o": (sent["o", "lora_A"][:, of * o : (of + 1) * o], sent["o", "lora_B"]),
        }
        return {name: layer(rank, size, *pair) for name, pair in cut.items()}

    def stale(rank: int, of: int) -> list[str]:
        return stale_matrices(SimpleNamespace(modules=modules(rank, of), packed_modules={}), sent)

    for rank in range(size):
        assert stale(rank, rank) == []
        other = (rank + size // 2) % size
        if other != rank:
            assert stale(rank, other) == ["q.lora_B", "v.lora_B", "o.lora_A"]


@pytest.mark.parametrize("told", ["killed", "after an exception that follows from it"])
def test_a_workers_end_is_the_last_word_of_the_engines_process(told: str):
    """vLLM's other workers fail when one is gone, and their failure may be heard first."""
    script = f"""
        import multiprocessing, os, signal, time
        from alignkit.engines.vllm.worker import watch_workers

        if __name__ == "__main__":
            context = multiprocessing.get_context("fork")
            worker = context.Process(target=time.sleep, args=(60,), name="VllmWorker-0", daemon=True)
            worker.start()
            watch_workers()
            print(worker.pid, flush=True)
            os.kill(worker.pid, signal.SIGKILL)
            if {told!r} != "killed":
                raise RuntimeError("connection closed by peer")
            time.sleep(60)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == f"worker 0 (process {ended.stdout.strip()}) was killed by SIGKILL"
