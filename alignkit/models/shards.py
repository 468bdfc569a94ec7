"""Writes a checkpoint's weights as they come, so that never more than one file's worth of them is held."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 5 * 10**9
NAME, INDEX = "model.safetensors", "model.safetensors.index.json"


def write_shards(weights: Iterable[tuple[str, Tensor]], folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes (name, tensor in host memory) into `folder` in the layout of transformers: one safetensors file or, beyond
    `shard_bytes`, several and their index. A larger tensor has a file of its own.

    Raises OSError or SafetensorError when the disk refuses it.
    """
    from safetensors.torch import save_file

    parts: list[list[str]] = []
    held: dict[str, Tensor] = {}
    size = total = numbers = 0

    def write() -> None:
        parts.append(list(held))
        save_file(held, folder / f"{len(parts)}.unfinished", metadata={"format": "pt"})
        held.clear()

    for name, tensor in weights:
        if held and size + tensor.nbytes > shard_bytes:
            write()
            size = 0
        held[name] = tensor
        size, total, numbers = size + tensor.nbytes, total + tensor.nbytes, numbers + tensor.numel()
    write()
    names = [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    names = names if len(parts) > 1 else [NAME]
    for number, name in enumerate(names, 1):
        (folder / f"{number}.unfinished").rename(folder / name)
    if len(parts) > 1:
        places = {name: file for file, part in zip(names, parts, strict=True) for name in part}
        index = {"metadata": {"total_parameters": numbers, "total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
