"""What a rank does in test_far.py: `python -m tests.distributed.far FOLDER WHAT`, one process per rank.

No rank but the first reaches the memory of the engine's host, as if each were on a host of its own. `WHAT` is "all", or
"die", in which case the last rank ends while it sends the second version.
"""

from __future__ import annotations

import os
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignkit.errors import EngineError
from alignkit.models.adapter_matrices import adapter_shapes
from alignkit.models.weights import Part, named_policy_weights
from alignkit.parallel.far_writers import FarWriters
from alignkit.parallel.group import Group, join_group
from alignkit.parallel.writers import open_writers, write_together
from alignkit.weights.host_memory import HostMemory
from alignkit.weights.pieces import checkpoint_shapes, pieces
from alignkit.weights.sender import Sender
from alignkit.weights.transports.exchange import Exchange
from tests.distributed import steps
from tests.distributed.ranks import leave_together
from tests.live_bytes import Live
from tests.tiny import causal_lm

MODELS = {
    "untied head": lambda: causal_lm("llama"),
    "tied head": lambda: causal_lm("llama_tied"),
    "lora apart": lambda: steps.lora("llama_tied"),
}


def sender_of(model: nn.Module, group: Group, *, apart: bool) -> Sender | None:
    shapes = checkpoint_shapes(model, part="base" if apart else "merged")
    matrices = adapter_shapes(model) if apart else {}
    return Sender(Path(), "bfloat16", shapes=shapes, adapter=matrices, lends=False) if group.first else None


def differing(model: nn.Module, sender: Sender | None, parts: list[Part]) -> list[str]:
    """On the first rank, the weights that lie otherwise in the memory than the model says."""
    if sender is None:
        return []
    lies = sender.memory.tensors("adapter") | sender.memory.tensors("base")
    wanted = dict(chain.from_iterable(named_policy_weights(model, part=part) for part in parts))
    assert lies.keys() == wanted.keys()
    return [name for name, tensor in wanted.items() if not torch.equal(lies[name], tensor.bfloat16())]


def written(name: str, group: Group) -> dict[str, Any]:
    apart = name == "lora apart"
    parts: list[Part] = ["base", "adapter"] if apart else ["merged"]
    model = MODELS[name]()
    sender = sender_of(model, group, apart=apart)
    memory = sender.memory if sender else None
    began = write_together(model, group, memory, "base" if apart else "merged")
    writers = open_writers(group, memory)
    assert isinstance(writers, FarWriters)
    odd, peaks = [], []
    for version in (1, 2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * version)
        with Live() as live:
            there = [
                *model.parameters(),
                *(memory.tensors("base") | memory.tensors("adapter") if memory else {}).values(),
            ]
            live.known |= {tensor.untyped_storage()._cdata for tensor in there}
            writers.write(
                parts, lambda part: pieces(model, rank=group.rank, world=group.world, part=part), version=version
            )
        peaks.append(live.peak)
        odd += differing(model, sender, parts)
    torn = sorted(memory.torn) if memory else []
    writers.close()
    return {
        "began": began,
        "odd": odd,
        "torn": torn,
        "peak": max(peaks),
        "all": sum(p.numel() * 2 for p in model.parameters()),
    }


def died(group: Group, folder: Path) -> dict[str, Any]:
    model = MODELS["tied head"]()
    sender = sender_of(model, group, apart=False)
    writers = open_writers(group, sender.memory if sender else None)
    assert writers is not None

    def own(part: Part) -> Any:
        return pieces(model, rank=group.rank, world=group.world, part=part)

    writers.write(["merged"], own, version=1)
    if group.rank == group.world - 1:

        def end(*_: Any) -> None:
            torch.save({}, folder / f"rank-{group.rank}.pt")
            os._exit(0)

        Exchange._do = end  # ty: ignore[invalid-assignment]
    try:
        writers.write(["merged"], own, version=2)
    except EngineError as error:
        return {"error": str(error), "torn": sorted(sender.memory.torn) if sender else []}
    return {"error": ""}


def main(folder: Path, what: str) -> None:
    torch.set_num_threads(1)
    group = join_group()
    HostMemory.opened = classmethod(lambda cls, place: None)  # ty: ignore[invalid-assignment]
    if what == "die":
        leave_together(folder, group.rank, group.world, died(group, folder))
    torch.save({name: written(name, group) for name in MODELS}, folder / f"rank-{group.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
