"""What worker R of N has of a checkpoint, written down by hand for families named as Llama, Qwen and Mixtral are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PADDED = 64  # vLLM pads vocabularies to a multiple of this
OUTPUTS = ("q_proj", "gate_proj", "up_proj", "w1", "w3")
KEYS = ("k_proj", "v_proj")
INPUTS = ("o_proj", "down_proj", "w2")


def by_hand(shapes: Mapping[str, tuple[int, ...]], rank: int, size: int, *, kv_heads: int) -> list[Any]:
    """[name, begin, size] of each box, sorted."""
    boxes = []
    for name, shape in sorted(shapes.items()):
        layer = name.split(".")[-2]
        axis, parts, whole = 0, 1, shape[0]
        if layer in OUTPUTS:
            parts = size
        elif layer in KEYS:
            parts = min(size, kv_heads)  # each of fewer heads than workers is held by several
        elif layer in INPUTS and len(shape) == 2:
            axis, parts, whole = 1, size, shape[1]
        elif layer in ("embed_tokens", "lm_head"):
            parts, whole = size, -(-shape[0] // PADDED) * PADDED
        length = whole // parts
        begin = rank * parts // size * length
        length = min(length, shape[axis] - begin)
        if length > 0:
            begins, sizes = [0] * len(shape), list(shape)
            begins[axis], sizes[axis] = begin, length
            boxes.append([name, begins, sizes])
    return boxes
