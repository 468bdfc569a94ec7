"""Target `ollama`: a GGUF file and the Modelfile with which `ollama create NAME -f Modelfile` takes it in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignkit.models.tokenizer import stop_token_ids
from alignkit.run.export.gguf.vocabulary import adds_bos
from alignkit.run.export.go_template import go_template

CONTEXT = 8192
"""Tokens that Ollama makes room for; more costs memory, which users decide about."""


def ollama_template(tokenizer: Any) -> str:
    """The chat template in Go's words. Raises ExportError where it cannot be said."""
    bos = tokenizer.bos_token if tokenizer.bos_token is not None and adds_bos(tokenizer) else ""
    return go_template(tokenizer, bos=bos)


def write_modelfile(template: str, model: Any, tokenizer: Any, gguf: Path) -> None:
    """Writes `Modelfile` beside the file `gguf`."""
    stops = [tokenizer.convert_ids_to_tokens(token) for token in stop_token_ids(tokenizer, model)]
    lines = [
        f"FROM ./{gguf.name}",
        f'TEMPLATE """{template}"""',
        *(f'PARAMETER stop "{stop}"' for stop in stops),
        f"PARAMETER num_ctx {min(CONTEXT, model.config.max_position_embeddings)}",
    ]
    (gguf.parent / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
