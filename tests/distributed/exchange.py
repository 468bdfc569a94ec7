"""What a rank does in test_exchange.py: `python -m tests.distributed.exchange FOLDER WHAT`, one process per rank.

Ranks 0 and 1 train, 2 and 3 are two workers of an engine, 2 on the host of rank 0. `WHAT` is "all", or "die", in which
case rank 1 ends in the middle of the second update.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from alignkit.errors import EngineError
from alignkit.types.layout import Box, Holder
from alignkit.weights.layouts.decoder import Decoder
from alignkit.weights.layouts.vllm_layout import vllm_layout
from alignkit.weights.layouts.zero_layout import shard_range, zero_layout
from alignkit.weights.plan.plan import plan
from alignkit.weights.transports.exchange import Exchange
from alignkit.weights.transports.held import Held, shard_views
from alignkit.weights.transports.landing import Landing
from tests.distributed.ranks import leave_together
from tests.live_bytes import Live

MODEL = Decoder(layers=3, width=64, heads=4, kv_heads=1, head_size=16, intermediate=96, vocabulary=500, tied=True)
RANKS = [Holder("one", 0), Holder("two", 1), Holder("one", 2), Holder("three", 3)]
BUCKET = 10_000  # numbers
DYING, AT_STEP = 1, 4


def weights(version: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(version)
    return {name: torch.randn(shape, generator=generator) for name, shape in MODEL.shapes.items()}


def shards(full: dict[str, torch.Tensor], stage: int, rank: int) -> Held:
    """A training rank's own tensors, in float32; an engine's worker has none."""
    held: dict[Box, torch.Tensor] = {}
    for name, tensor in full.items() if rank < 2 else ():
        if stage < 3:
            held[Box(name, (0,) * tensor.dim(), tuple(tensor.shape))] = tensor
        else:
            begin, end = shard_range(tuple(tensor.shape), rank, 2)
            held |= shard_views(name, tuple(tensor.shape), begin, tensor.flatten()[begin:end].clone())
    return Held(held)


def setting(stage: int, rank: int, store: Any) -> tuple[Exchange, Landing]:
    target = vllm_layout(MODEL, [RANKS[2:]], tensor_parallel=2)
    made = plan(zero_layout(stage, MODEL.shapes, RANKS[:2]), target, bucket=BUCKET)
    boxes = target.boxes(RANKS[rank])
    landing = Landing({box: torch.full(box.size, float("nan"), dtype=torch.bfloat16) for box in boxes})
    return Exchange(made, RANKS, dtype=torch.bfloat16, store=store, timeout_s=60), landing


def moved(stage: int, rank: int, store: Any) -> dict[str, Any]:
    """Two updates: whether a worker has the bits of slices of the second one's weights, and the most bytes beside."""
    exchange, landing = setting(stage, rank, store)
    peaks = []
    for version in (1, 2):
        full = weights(version)
        source = shards(full, stage, rank)
        dist.barrier()
        with Live() as live:
            tensors = (*source.tensors.values(), *landing.held.tensors.values())
            live.known |= {tensor.untyped_storage()._cdata for tensor in tensors}
            exchange.move(source, landing, version)
        peaks.append(live.peak)
    exchange.close()
    equal = all(torch.equal(t, full[box.name][box.slices].bfloat16()) for box, t in landing.tensors.items())
    return {"equal": equal, "boxes": len(landing.tensors), "version": landing.version, "peaks": peaks}


def died(rank: int, store: Any, folder: Path) -> dict[str, Any]:
    exchange, landing = setting(3, rank, store)
    exchange.move(shards(weights(1), 3, rank), landing, 1)
    if rank == DYING:
        done, do = 0, exchange._do

        def mortal(*arguments: Any) -> Any:
            nonlocal done
            done += 1
            if done == AT_STEP:
                torch.save({}, folder / f"rank-{rank}.pt")
                os._exit(0)
            return do(*arguments)

        exchange._do = mortal  # ty: ignore[invalid-assignment]
    errors = []
    for _ in range(2):
        try:
            exchange.move(shards(weights(2), 3, rank), landing, 2)
        except EngineError as error:
            errors.append(str(error))
    old = new = 0
    first, second = weights(1), weights(2)
    for box, tensor in landing.held.tensors.items():
        old += int((tensor == first[box.name][box.slices].bfloat16()).sum())
        new += int((tensor == second[box.name][box.slices].bfloat16()).sum())
    return {"errors": errors, "version": landing.version, "mix": (old, new)}


def main(folder: Path, what: str) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), len(RANKS), is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(RANKS))
    if what == "die":
        leave_together(folder, rank, len(RANKS), died(rank, dist.PrefixStore("die", store), folder))
    found = {stage: moved(stage, rank, dist.PrefixStore(f"stage{stage}", store)) for stage in range(4)}
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
