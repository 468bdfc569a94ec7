"""A policy's weights in anonymous shared memory: the trainer writes them, the engine process reads them in place.

The memory is a memfd: it has no name that could be left behind, and it is not bound by the size of /dev/shm.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 64  # bytes: a cache line


@dataclass(frozen=True)
class Table:
    """Where each tensor lies. entries: (name, shape, offset in bytes); size: where they end; dtype: name of a dtype."""

    entries: tuple[tuple[str, tuple[int, ...], int], ...]
    size: int
    dtype: str

    def as_json(self) -> dict[str, Any]:
        return {"entries": self.entries, "size": self.size, "dtype": self.dtype}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Table:
        entries = tuple((name, tuple(shape), offset) for name, shape, offset in data["entries"])
        return cls(entries=entries, size=data["size"], dtype=data["dtype"])


def table_of(folder: Path, dtype: str, *, begin: int = 0) -> Table:
    """The table for every weight of a checkpoint folder, stored as `dtype`; a tied head is left out.

    Raises EngineError when the folder holds no safetensors or no config.
    """
    shapes = _shapes(folder)
    try:
        tied = json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", False)
    except OSError as error:
        raise EngineError(f"engine: {folder} has no readable config.json ({error})") from error
    if tied:
        shapes.pop("lm_head.weight", None)
    return laid_out(shapes, dtype, begin=begin)


def laid_out(shapes: Mapping[str, tuple[int, ...]], dtype: str, *, begin: int = 0) -> Table:
    """The table for tensors of these names and shapes, from the byte `begin` on."""
    import torch

    width = getattr(torch, dtype).itemsize
    entries, offset = [], begin
    for name, shape in sorted(shapes.items()):
        entries.append((name, shape, offset))
        offset = _after(offset, math.prod(shape) * width)
    return Table(entries=tuple(entries), size=offset, dtype=dtype)


def write_tensors(descriptor: int, weights: Iterable[tuple[str, Tensor]], dtype: str, *, begin: int = 0) -> Table:
    """Writes tensors, cast to `dtype`, into the memory behind the descriptor as they come; the table of where."""
    import torch

    entries, offset = [], begin
    with open(descriptor, "wb", closefd=False) as memory:
        for name, tensor in weights:
            cast = tensor.detach().to("cpu", getattr(torch, dtype)).contiguous()
            entries.append((name, tuple(cast.shape), offset))
            memory.seek(offset)
            memory.write(cast.view(-1).view(torch.uint8).numpy())
            offset = _after(offset, cast.nbytes)
    return Table(entries=tuple(entries), size=offset, dtype=dtype)


def whole_pages(size: int) -> int:
    """Bytes of the memory pages that hold `size` bytes: what begins there can be pinned by itself."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _after(offset: int, size: int) -> int:
    return offset + -(-size // ALIGNMENT) * ALIGNMENT


def map_tensors(descriptor: int, table: Table) -> dict[str, Tensor]:
    """The tensors that `table` describes, as views of the shared memory behind the file descriptor."""
    import torch

    memory = _mapped(descriptor, table)
    dtype = getattr(torch, table.dtype)
    return {
        name: torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=offset).view(shape)
        for name, shape, offset in table.entries
    }


def pin(tensors: Mapping[str, Tensor], table: Table) -> bool:
    """Lets a GPU copy from and to the memory of `map_tensors` directly; whether CUDA took it. Slower without."""
    import torch

    begin = min(tensor.data_ptr() for tensor in tensors.values())
    size = table.size - min(offset for _, _, offset in table.entries)
    return int(torch.cuda.cudart().cudaHostRegister(begin, size, 0)) == 0


def _mapped(descriptor: int, table: Table) -> mmap.mmap:
    if os.fstat(descriptor).st_size < table.size:
        os.ftruncate(descriptor, table.size)
    return mmap.mmap(descriptor, table.size)


def stored_weights(folder: Path) -> dict[str, Tensor]:
    """Every weight of a checkpoint folder by its name, mapped from the files."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise EngineError(f"engine: {file} is damaged ({error})") from error
    if not shapes:
        raise EngineError(f"engine: no *.safetensors in {folder}; give the folder of a saved model")
    return shapes
