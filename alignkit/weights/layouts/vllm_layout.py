"""Where vLLM's workers want the weights of a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod

import numpy as np

from alignkit.errors import LayoutError
from alignkit.types.layout import Box, Holder, Layout, Placed
from alignkit.weights.layouts.decoder import EMBEDDING, HEAD, NORM, Cuttable, Decoder

PADDING = 64  # vLLM rounds a vocabulary up to a multiple of it before it cuts it


def vllm_layout(
    decoder: Decoder,
    replicas: Sequence[Sequence[Holder]],
    *,
    tensor_parallel: int,
    expert_parallel: bool = False,
    adapter: bool = False,
) -> Layout:
    """The boxes of each worker, in the checkpoint's tensors.

    A fused layer has its rows as parts: of qkv_proj a worker's q, k and v one after the other, of gate_up_proj its gate
    and up. A padded row is nobody's: it is in no checkpoint. Of fewer key-value heads than workers several have the
    same. A tied head is not wanted beside its embedding, by the last stage neither.

    replicas: of each its workers, `tensor_parallel` of the first pipeline stage, then those of the second, ...
    expert_parallel: a worker has whole experts instead of a share of each. adapter: LoRA's matrices alone.
    Raises LayoutError where vLLM cannot cut the decoder so.
    """
    stages = _stages(decoder, replicas, tensor_parallel, expert_parallel)
    tensors = decoder.adapter if adapter else decoder.tensors
    holders = [worker for replica in replicas for worker in replica]
    known: dict[tuple[Cuttable, tuple[int, ...], bool], Placed] = {}
    placed = {}
    for name, tensor in tensors.items():
        where = _where(name, tensor, stages, decoder)
        # a tensor of another layer in the same stages lies in the same places
        key = (Cuttable(tensor.shape, tensor.cut, None, tensor.expert), where, expert_parallel)
        if key not in known:
            owner = None
            if expert_parallel and tensor.expert is not None:
                owner = _expert_owner(tensor.expert, decoder.experts, tensor_parallel)
            known[key] = _placed(tensor, decoder, len(replicas), tensor_parallel, len(stages), where, owner)
        placed[name] = known[key]
    return Layout({name: tensor.shape for name, tensor in tensors.items()}, holders, placed)


def stage_layers(layers: int, stages: int) -> list[range]:
    """The layers of each pipeline stage, as vLLM cuts them: what is left over goes to those before the last."""
    share = [layers // stages] * stages
    for index in range(2, layers % stages + 2):
        share[-index] += 1
    ends = np.cumsum([0, *share]).tolist()
    return [range(first, last) for first, last in pairwise(ends)]


def _stages(decoder: Decoder, replicas: Sequence[Sequence[Holder]], workers: int, expert_parallel: bool) -> list[range]:
    sizes = {len(replica) for replica in replicas}
    if len(sizes) != 1 or (count := sizes.pop()) % workers or not count:
        raise LayoutError(
            f"vllm layout: replicas of {[len(r) for r in replicas]} workers; give each a multiple of {workers}"
        )
    whole_experts = decoder.experts and expert_parallel
    cut = {"heads": decoder.heads, "intermediate": 0 if whole_experts else decoder.intermediate,
           "padded vocabulary": _padded(decoder.vocabulary)}  # fmt: skip
    for what, value in cut.items():
        if value % workers:
            raise LayoutError(
                f"vllm layout: {what} {value} is no multiple of tensor_parallel {workers}; take a divisor"
            )
    if decoder.kv_heads % workers and workers % decoder.kv_heads:
        raise LayoutError(
            f"vllm layout: {decoder.kv_heads} key-value heads on tensor_parallel {workers}; one must divide the other"
        )
    return stage_layers(decoder.layers, count // workers)


def _where(name: str, tensor: Cuttable, stages: Sequence[range], decoder: Decoder) -> tuple[int, ...]:
    """The stages that want a tensor."""
    if tensor.layer is not None:
        return tuple(index for index, layers in enumerate(stages) if tensor.layer in layers)
    last = len(stages) - 1
    if name == EMBEDDING:
        return (0, last) if decoder.tied and last else (0,)
    assert name in (HEAD, NORM)
    return (last,)


def _expert_owner(expert: int, experts: int, workers: int) -> int:
    """Runs of experts, one more on the first workers where they do not come out even."""
    share, more = divmod(experts, workers)
    return expert // (share + 1) if expert < more * (share + 1) else more + (expert - more * (share + 1)) // share


def _placed(
    tensor: Cuttable,
    decoder: Decoder,
    replicas: int,
    workers: int,
    stages: int,
    where: Sequence[int],
    owner: int | None,
) -> Placed:
    rows = []
    for worker in range(workers):
        if owner is not None:
            box = Box("", (0,) * len(tensor.shape), tensor.shape) if worker == owner else None
        else:
            box = _share(tensor, decoder, worker, workers)
        if box is not None and prod(box.size):
            rows += [
                (box.begin, box.size, (replica * stages + stage) * workers + worker)
                for replica in range(replicas)
                for stage in where
            ]
    begin, size, holder = zip(*rows, strict=True)
    return Placed(np.array(begin, np.int64), np.array(size, np.int64), np.array(holder, np.int32))


def _share(tensor: Cuttable, decoder: Decoder, worker: int, workers: int) -> Box:
    axis = 1 if tensor.cut == "columns" else 0
    length = tensor.shape[axis]
    spans: Mapping[str, tuple[int, int]] = {
        "whole": (0, length),
        "rows": _span(length, worker, workers),
        "columns": _span(length, worker, workers),
        "kv_rows": _span(length, worker * min(workers, decoder.kv_heads) // workers, min(workers, decoder.kv_heads)),
        "vocabulary": _span(_padded(length), worker, workers),
    }
    first, last = (min(edge, length) for edge in spans[tensor.cut])
    begin, size = [0] * len(tensor.shape), list(tensor.shape)
    begin[axis], size[axis] = first, last - first
    return Box("", tuple(begin), tuple(size))


def _padded(vocabulary: int) -> int:
    return -(-vocabulary // PADDING) * PADDING


def _span(length: int, index: int, shares: int) -> tuple[int, int]:
    return length // shares * index, length // shares * (index + 1)
