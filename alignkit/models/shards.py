"""Writes a checkpoint's weights as they come, so that never more than one file's worth of them is held."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.types.files import fsync, replace_atomically, save_tensors, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 5 * 10**9
INDEX = "model.safetensors.index.json"


def write_shards(
    weights: Iterable[tuple[str, Tensor]], folder: Path, *, name: str = "model", shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes (name, tensor in host memory) into `folder` in the layout of transformers: one safetensors file or, beyond
    `shard_bytes`, several and their index. A larger tensor has a file of its own.

    name: of the files. They have it once all are on the disk; nothing is left of what the disk refuses. Raises as
    `replace_atomically` does.
    """
    parts: list[list[str]] = []
    held: dict[str, Tensor] = {}
    size = total = numbers = 0

    def unfinished(number: int) -> Path:
        return folder / f"{name}-{number}.unfinished"

    def write() -> None:
        parts.append(list(held))
        replace_atomically(unfinished(len(parts)), lambda place: save_tensors(held, place, metadata={"format": "pt"}))
        held.clear()

    try:
        for key, tensor in weights:
            if held and size + tensor.nbytes > shard_bytes:
                write()
                size = 0
            held[key] = tensor
            size, total, numbers = size + tensor.nbytes, total + tensor.nbytes, numbers + tensor.numel()
        write()
    except BaseException:
        for number in range(1, len(parts) + 1):
            unfinished(number).unlink(missing_ok=True)
        raise
    files = [f"{name}-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    files = files if len(parts) > 1 else [f"{name}.safetensors"]
    for number, file in enumerate(files, 1):
        unfinished(number).rename(folder / file)
    fsync(folder)
    if len(parts) > 1:
        places = {key: file for file, part in zip(files, parts, strict=True) for key in part}
        index = {"metadata": {"total_parameters": numbers, "total_size": total}, "weight_map": places}
        write_atomically(folder / f"{name}.safetensors.index.json", json.dumps(index, indent=2, sort_keys=True) + "\n")
