"""`alignkit export`: a model out to where models are used, with proof."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.output import JsonOption, print_json
from alignkit.errors import AlignkitError

NAMES = ("merged", "adapter", "gguf", "ollama", "hub")


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the folder or name of a model.")],
    to: Annotated[str, typer.Option(help=f"What is written: {', '.join(NAMES)}.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; default RUN/export/TARGET.")] = None,
    dtype: Annotated[str | None, typer.Option("--type", help="Numbers: f32, f16, bf16, q8_0.")] = None,
    repo: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="With --to hub: where it goes.")] = None,
    private: Annotated[bool, typer.Option("--private", help="With --to hub: a repository made is private.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a trained model for where it is used, read it back there, and prove that it is the same model."""
    if to not in NAMES:
        raise AlignkitError(f"--to {to}: wanted one of {', '.join(NAMES)}")
    from alignkit.run.export.export import export as export_model

    done = export_model(run, to=to, out=out, dtype=dtype, repo=repo, private=private)
    if as_json:
        print_json(asdict(done))
        return
    gaps = ", ".join(f"{name} {gap:.2g}" for name, gap in done.gaps.items())
    size = sum(done.files.values()) / 2**20
    typer.echo(f"{done.folder}: {done.dtype}, {size:,.1f} MiB, in {done.seconds:.0f} s")
    if done.link:
        typer.echo(f"uploaded to {done.link}")
    typer.echo(f"proven: the chat template, tokens and stop tokens are the model's; nats a token from it: {gaps}")
