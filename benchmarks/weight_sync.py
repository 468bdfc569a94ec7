"""Weight sync of SmolLM2-135M under ZeRO-3 on two ranks of this machine: in pieces, and by gathering layer by layer.

python -m benchmarks.weight_sync [--rounds 5]

Both ways bring all weights in bfloat16 into the memory of an engine's host, in turn, and what lies there then is
compared. No engine loads it: that part is the same. Prints seconds, processor seconds, bytes that a rank is sent by the
others, bytes that it writes, and how far its own memory (RssAnon) rises meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alignkit.models.load import load_policy, smollm2_folder
from alignkit.models.pretrained import load_pretrained
from alignkit.parallel.cut import Cutter
from alignkit.parallel.group import Group, join_group
from alignkit.parallel.trainer import Trainer
from alignkit.parallel.writers import Writers
from alignkit.parallel.zero import ZeroTrainer
from alignkit.recipe.schema import Model, Optimizer
from alignkit.weights.pieces import checkpoint_shapes
from alignkit.weights.sender import Sender

WORLD = 2
SHARDING = {"zero_optimization": {"stage": 3}}


class Rise:
    """bytes: how far RssAnon of this process rose within it, looked at every two milliseconds."""

    def __enter__(self) -> Rise:
        self.bytes, self._before, self._done = 0, _anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.bytes = max(self.bytes, _anonymous() - self._before)


def _anonymous() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def read(group: Group) -> Trainer:
    cutter = Cutter(SHARDING, group.world)

    def one(path: str, revision: str | None) -> tuple[Any, Any]:
        with cutter.reading():
            return load_pretrained(path, revision)

    model = load_policy(Model(path=str(smollm2_folder())), seed=0, read=one)[0]
    return ZeroTrainer(model, Optimizer(lr=1e-6), group, SHARDING)


def rank(rounds: int) -> None:
    torch.set_num_threads(1)
    group = join_group()
    trainer = read(group)
    shapes = checkpoint_shapes(trainer.model)
    sender = Sender(Path(), "bfloat16", shapes=shapes, adapter={}, lends=False) if group.first else None
    writers = Writers.open(group, sender.memory if sender else None)
    assert writers is not None

    def pieces() -> None:
        writers.write(["merged"], trainer.pieces, version=1)

    def gathered() -> None:
        weights = trainer.weights()
        if sender is not None:
            sender.send(weights, 1, [lambda message: {}])
        deque(weights, maxlen=0)

    ways: dict[str, Callable[[], None]] = {"pieces": pieces, "gathered": gathered}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    rises: dict[str, int] = dict.fromkeys(ways, 0)
    worked: dict[str, float] = dict.fromkeys(ways, 0.0)
    memory, equal = writers.memory.tensors("base"), True
    for number in range(-1, rounds):  # the first round maps the memory
        lay = []
        for way, work in ways.items():
            group.barrier()
            for tensor in memory.values() if group.first else ():
                tensor.zero_()
            group.barrier()
            begin, before = time.perf_counter(), time.process_time()
            with Rise() as rise:
                work()
            after = time.process_time()
            group.barrier()
            if number >= 0:
                worked[way] += (after - before) / rounds
                seconds[way].append(time.perf_counter() - begin)
                rises[way] = max(rises[way], rise.bytes)
            lay.append({name: tensor.clone() for name, tensor in memory.items()} if group.first else {})
        equal &= all(torch.equal(tensor, lay[1][name]) for name, tensor in lay[0].items())
    numbers = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters())
    found = group.gather({"rises": rises, "worked": worked, "numbers": numbers})
    if group.first:
        print(json.dumps({"seconds": seconds, "equal": equal, "ranks": found}))


def report(result: dict[str, Any]) -> None:
    numbers, seconds = result["ranks"][0]["numbers"], result["seconds"]
    sent = {"pieces": 0, "gathered": numbers * 4 * (WORLD - 1) // WORLD}
    wrote = {"pieces": numbers * 2 // WORLD, "gathered": numbers * 2}
    print(f"{numbers:,} numbers, the same bits in memory: {result['equal']}")
    for way in ("gathered", "pieces"):
        rises = ", ".join(f"{each['rises'][way] / 1e6:.0f}" for each in result["ranks"])
        worked = sum(each["worked"][way] for each in result["ranks"])
        print(
            f"{way:9} {statistics.median(seconds[way]):.2f} s ({min(seconds[way]):.2f} to {max(seconds[way]):.2f}), "
            f"{worked:.2f} s of processors on all ranks; "
            f"sent to each rank {sent[way] / 1e6:.0f} MB; most that a rank writes {wrote[way] / 1e6:.0f} MB; "
            f"own memory rises by {rises} MB"
        )
    ratios = [a / b for a, b in zip(seconds["gathered"], seconds["pieces"], strict=True)]
    print(f"gathered / pieces, round by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if "RANK" in os.environ:
        rank(rounds)
        return
    group = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.weight_sync", "--rounds", str(rounds)],
            env={**os.environ, **group, "RANK": str(number), "LOCAL_RANK": str(number)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(WORLD)
    ]
    first, *_ = [process.communicate()[0] for process in ranks]
    report(json.loads(first.strip().splitlines()[-1]))


if __name__ == "__main__":
    main()
