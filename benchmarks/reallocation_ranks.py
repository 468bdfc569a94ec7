"""What the processes of `benchmarks.reallocation` do: trainer ranks with ZeRO-3 shards, workers with boxes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from alignkit.models.load import smollm2_folder
from alignkit.parallel.group import Group
from alignkit.parallel.writers import Writers
from alignkit.types.layout import Holder
from alignkit.weights.host_memory import HostMemory
from alignkit.weights.layouts.decoder import Decoder
from alignkit.weights.layouts.vllm_layout import vllm_layout
from alignkit.weights.layouts.zero_layout import shard_range, zero_layout
from alignkit.weights.piece import Piece
from alignkit.weights.plan.plan import plan
from alignkit.weights.shared_weights import laid_out, stored_weights
from alignkit.weights.transports.exchange import Exchange
from alignkit.weights.transports.held import Held, shard_views
from alignkit.weights.transports.landing import Landing

MODEL = Decoder(layers=30, width=576, heads=9, kv_heads=3, head_size=64, intermediate=1536, vocabulary=49152, tied=True)
SIDES = ("gather", "plan", "host memory")


@dataclass(frozen=True)
class Setting:
    """How many ranks train, and how many workers the engine has, each a process."""

    ranks: int
    workers: int

    @property
    def trainers(self) -> list[Holder]:
        return [Holder("here", index) for index in range(self.ranks)]

    @property
    def engine(self) -> list[Holder]:
        return [Holder("here", self.ranks + index) for index in range(self.workers)]


class Process:
    """One process: its shards or its boxes, and the three ways."""

    def __init__(self, me: int, setting: Setting, store: dist.Store):
        self.me, self.setting, self.train = me, setting, me < setting.ranks
        self.shapes = MODEL.shapes
        source = zero_layout(3, self.shapes, setting.trainers)
        target = vllm_layout(MODEL, [setting.engine], tensor_parallel=setting.workers)
        holders = [*setting.trainers, *setting.engine]
        self.exchange = Exchange(plan(source, target), holders, dtype=torch.bfloat16, store=store)
        boxes = target.boxes(holders[me])
        self.landing = Landing({box: torch.empty(box.size, dtype=torch.bfloat16) for box in boxes})
        self.training = Group(me, setting.ranks, dist.new_group(range(setting.ranks), backend="gloo"))
        self.stored, self.shards = stored_weights(smollm2_folder()), dict[str, Tensor]()
        table = laid_out(self.shapes, "bfloat16")
        first = HostMemory(os.memfd_create("reallocation"), laid_out({}, "bfloat16"), table) if me == 0 else None
        [place] = box = [first.place if first else None]
        dist.broadcast_object_list(box, src=0)
        memory = first or HostMemory.opened(box[0] or place)  # ty: ignore[invalid-argument-type]
        assert memory is not None, "all processes are on one host"
        self.memory = memory.tensors("base")
        self.writers = Writers.open(self.training, memory if me == 0 else None) if self.train else None
        self.received = 0

    def weight(self, name: str, version: int) -> Tensor:
        """A trainer's float32 weights of a version."""
        return self.stored[name].float() * (1 + 2**-6 * version)

    def new_version(self, version: int) -> None:
        for name, shape in self.shapes.items() if self.train else ():
            begin, end = shard_range(shape, self.me, self.setting.ranks)
            self.shards[name] = self.weight(name, version).flatten()[begin:end].clone()

    def equal(self, version: int) -> bool:
        """Whether a worker has the bits of slices of the whole weights; then forgets what it has."""
        same = all(
            torch.equal(tensor, self.weight(box.name, version).bfloat16()[box.slices])
            for box, tensor in self.landing.held.tensors.items()
        )
        for tensor in self.landing.held.tensors.values():
            tensor.fill_(float("nan"))
        return same

    def plan(self, version: int) -> None:
        views = {}
        for name, shard in self.shards.items():
            views |= shard_views(
                name, self.shapes[name], shard_range(self.shapes[name], self.me, self.setting.ranks)[0], shard
            )
        self.exchange.move(Held(views), self.landing, version)

    def gather(self, version: int) -> None:
        """Layer by layer, in one collective each."""
        ranks = self.setting.ranks
        for _, names in groupby(self.shapes, key=lambda name: name.split(".")[2]) if self.train else ():
            layer = list(names)
            shares = [-(-prod(self.shapes[name]) // ranks) for name in layer]
            mine = torch.zeros(sum(shares))
            for name, part in zip(layer, mine.split(shares), strict=True):
                part[: len(self.shards[name])] = self.shards[name]
            whole = [torch.empty_like(mine) for _ in range(ranks)]
            dist.all_gather(whole, mine, group=self.training.waiting)
            parts = [each.split(shares) for each in whole]
            for index, name in enumerate(layer):
                weight = torch.cat([part[index] for part in parts])[: prod(self.shapes[name])]
                if self.me == 0:
                    self.memory[name].copy_(weight.view(self.shapes[name]))
        self.load()

    def write(self, version: int) -> None:
        """Each rank its own pieces."""
        if self.writers is not None:
            self.writers.write(["base"], lambda part: self.pieces(), version=version)
        self.load()

    def pieces(self) -> Iterator[Piece]:
        for name, shard in self.shards.items():
            yield Piece(name, shard_range(self.shapes[name], self.me, self.setting.ranks)[0], shard)

    def load(self) -> None:
        """Workers copy their boxes out of host memory once all is there."""
        dist.barrier()
        for box, tensor in self.landing.held.tensors.items():
            tensor.copy_(self.memory[box.name][box.slices])


def rank(me: int, setting: Setting, rounds: int, port: int, out: str) -> None:
    """Turns of the three ways; the first process writes seconds, bytes and equality to `out`."""
    torch.set_num_threads(1)
    world = setting.ranks + setting.workers
    store = dist.TCPStore("127.0.0.1", port, world, is_master=me == 0)
    dist.init_process_group("gloo", store=store, rank=me, world_size=world)
    process = Process(me, setting, dist.PrefixStore("exchange", store))
    ways: dict[str, Callable[[int], None]] = dict(
        zip(SIDES, (process.gather, process.plan, process.write), strict=True)
    )
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    equal = dict.fromkeys(SIDES, True)
    version = 0
    for turn in range(rounds + 1):  # the first warms up
        for side, way in ways.items():
            version += 1
            process.new_version(version)
            dist.barrier()
            begun = time.perf_counter()
            way(version)
            dist.barrier()
            if turn:
                seconds[side].append(time.perf_counter() - begun)
            equal[side] &= process.equal(version)
    told: list[Any] = [None] * world
    dist.all_gather_object(told, equal)
    if me == 0:
        equal = {side: all(each[side] for each in told) for side in SIDES}
        torch.save({"seconds": seconds, "equal": equal, "bytes": traffic(setting)}, out)
    dist.barrier()
    dist.destroy_process_group()


def traffic(setting: Setting) -> dict[str, int]:
    """Bytes that all processes receive over gloo: each rank what it lacks of every weight, in float32; each worker its
    boxes, in bfloat16; nothing."""
    padded = sum(-(-prod(shape) // setting.ranks) * setting.ranks for shape in MODEL.shapes.values())
    target = vllm_layout(MODEL, [setting.engine], tensor_parallel=setting.workers)
    boxes = sum(part.box.numbers for part in target.parts)
    return {"gather": 4 * padded * (setting.ranks - 1), "plan": 2 * boxes, "host memory": 0}
