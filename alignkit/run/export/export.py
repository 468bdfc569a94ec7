"""`alignkit export`: a model out to where models are used, with proof that it is the same model there."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers.utils.logging

from alignkit.errors import ContentError
from alignkit.run.export.adapter import write_adapter
from alignkit.run.export.card import card
from alignkit.run.export.gguf.proof import check_gguf
from alignkit.run.export.gguf.write import TYPES as GGUF_TYPES
from alignkit.run.export.gguf.write import write_gguf
from alignkit.run.export.hub import upload
from alignkit.run.export.merged import write_merged
from alignkit.run.export.ollama import ollama_template, write_modelfile
from alignkit.run.export.source import Source
from alignkit.types.files import guarded

TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8_0": "q8_0"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """folder: what was written, proven. dtype: of its weights. gaps: mean |differences| on the probe, in nats a token,
    by what they are from. seconds: that writing and proof took. link: where it was uploaded to."""

    folder: Path
    to: str
    dtype: str
    gaps: dict[str, float]
    seconds: float
    files: dict[str, int] = field(default_factory=dict)
    link: str | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a target writes from: its model (whose weights it may round), tokenizer, and the number format wanted."""

    source: Source
    model: Any
    tokenizer: Any
    dtype: str


def export(
    path: str,
    *,
    to: str,
    out: Path | None = None,
    dtype: str | None = None,
    repo: str | None = None,
    private: bool = False,
) -> Exported:
    """Writes the model of a run (or of a model's folder or name) for a target and proves it.

    to: a name of TARGETS. out: the folder to write, None: `export/TARGET` in the run, or NAME-TARGET here. dtype: a key
    of TYPES; None: as the model is stored. repo, private: of the hub, where `hub` uploads the folder to. Raises
    ContentError when there is no such model or the folder is there already, ExportError when what was written is not
    the model (then nothing is left) or the hub refuses it (then the folder is).
    """
    transformers.utils.logging.disable_progress_bar()
    start, source = time.monotonic(), Source.find(path)
    folder = out or (source.run / "export" / to if source.run else Path(f"{source.name}-{to}"))
    if folder.exists():
        raise ContentError(f"{folder} is there already; remove it, or name another place with --out")
    if (repo is None) == (to == "hub"):
        raise ContentError("--repo ORG/NAME goes with --to hub, and --to hub with it")
    if to in ("gguf", "ollama") and importlib.util.find_spec("gguf") is None:
        raise ContentError(f"--to {to} needs the package gguf; run: pip install gguf")
    number = _number(to, dtype, source)
    model, tokenizer = source.load()
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with guarded(unfinished, "the export"), torch.no_grad():
            gaps = TARGETS[to](Job(source=source, model=model, tokenizer=tokenizer, dtype=number), unfinished)
            page = card(source.run, name=source.name, to=to, dtype=number, gaps=gaps)
            (unfinished / "README.md").write_text(page, encoding="utf-8")
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    link = upload(folder, repo, private=private) if repo else None
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
    seconds = time.monotonic() - start
    return Exported(folder=folder, to=to, dtype=number, gaps=gaps, seconds=seconds, files=sizes, link=link)


def _number(to: str, dtype: str | None, source: Source) -> str:
    if dtype is not None and dtype not in TYPES:
        raise ContentError(f"--type {dtype}: wanted one of {', '.join(TYPES)}")
    if to == "adapter" and dtype is not None:
        raise ContentError("--type: an adapter is copied as it was saved; leave it out")
    number = TYPES[dtype] if dtype else source.stored
    if number == "q8_0" and to in ("merged", "hub"):
        raise ContentError("--type q8_0: only GGUF files have it; use --to gguf")
    return number


def _merged(job: Job, folder: Path) -> dict[str, float]:
    return write_merged(job.model, job.tokenizer, folder, job.dtype)


def _adapter(job: Job, folder: Path) -> dict[str, float]:
    return write_adapter(job.source, job.model, job.tokenizer, folder)


def _gguf(job: Job, folder: Path) -> dict[str, float]:
    folder.mkdir(parents=True)
    file = folder / f"{job.source.name}-{GGUF_TYPES[job.dtype].lower()}.gguf"
    write_gguf(job.model, job.tokenizer, file, job.dtype, name=job.source.name)
    return check_gguf(job.model, job.tokenizer, file, job.dtype)


def _ollama(job: Job, folder: Path) -> dict[str, float]:
    template = ollama_template(job.tokenizer)  # a template that cannot be said is found before weights are written
    gaps = _gguf(job, folder)
    write_modelfile(template, job.model, job.tokenizer, next(folder.glob("*.gguf")))
    return gaps


TARGETS: dict[str, Callable[[Job, Path], dict[str, float]]] = {
    "merged": _merged,
    "adapter": _adapter,
    "gguf": _gguf,
    "ollama": _ollama,
    "hub": _merged,
}
