"""What a replica must know to start the trainer's engine on another machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILES = ("config.json", "generation_config.json")  # the tokenizer stays with the trainer: only ids travel


@dataclass(frozen=True, kw_only=True)
class Description:
    """engine: "vllm" or "hf". dtype: of its arithmetic. max_model_len: longest prompt and completion, in tokens.
    settings: of vLLM (engines/vllm/arguments.py). files: name -> text, of the model's folder without its weights.
    table: names, shapes and places of the weights (weights/shared_weights.py).
    """

    engine: str
    dtype: str
    max_model_len: int
    seed: int
    settings: Mapping[str, Any]
    files: Mapping[str, str]
    table: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The same for two that mean the same."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def write(self, folder: Path) -> None:
        """Writes the model's folder. The names are those of FILES, whatever came."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if name in self.files:
                (folder / name).write_text(self.files[name])


def files_of(folder: Path) -> dict[str, str]:
    """What a description tells of a model's folder."""
    return {name: (folder / name).read_text() for name in FILES if (folder / name).is_file()}
