"""What tells one folder of a model from another: hashes of the files that decide what it computes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

SETTINGS = ("config.json", "generation_config.json", "adapter_config.json", "reward.json")
WHOLE = 256 * 2**20  # bytes: files up to this size are hashed whole
BLOCKS, BLOCK = 256, 2**20  # of larger ones: so many blocks of so many bytes, evenly spread from first to last


def fingerprint_folder(folder: Path) -> dict[str, str]:
    """File name -> hash, of the weights and settings of a model's folder; of an adapter's also those of its base.

    Weights are hashed whole up to 256 MiB; of a larger file the size, the header with all names and shapes, and 256
    blocks of 1 MiB spread over it. Training changes every block, so another model is always told; one number edited by
    hand in a file of many GiB may not be. The tokenizer's files are no part of it.
    """
    files = [*(folder / name for name in SETTINGS), *sorted(folder.glob("*.safetensors*"))]
    result = {file.name: fingerprint_file(file) for file in files if file.is_file()}
    base = _base(folder)
    return result | {f"base/{name}": digest for name, digest in (fingerprint_folder(base) if base else {}).items()}


def fingerprint_file(file: Path) -> str:
    """Hex digest of a file, whole or, beyond 256 MiB, of its size and of blocks spread over it."""
    size = file.stat().st_size
    digest = hashlib.blake2b(f"{size} ".encode(), digest_size=16)
    with file.open("rb") as handle:
        if size <= WHOLE:
            while block := handle.read(BLOCK):
                digest.update(block)
            return digest.hexdigest()
        header = int.from_bytes(handle.read(8), "little")  # of a safetensors file; of others it is any number
        digest.update(handle.read(min(header, 100 * BLOCK)))
        for number in range(BLOCKS):
            handle.seek((size - BLOCK) * number // (BLOCKS - 1))
            digest.update(handle.read(BLOCK))
    return digest.hexdigest()


def _base(folder: Path) -> Path | None:
    """The folder that an adapter's configuration names as its base, when there is one."""
    try:
        named = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    places = [Path(str(named)), folder / str(named)]
    return next((place for place in places if place.is_dir() and place.resolve() != folder.resolve()), None)
