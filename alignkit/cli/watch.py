"""`alignkit watch`: the report of a run that goes on, in a browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 8902,
    every: Annotated[int, typer.Option(min=1, help="Seconds after which the browser asks again.")] = 10,
) -> None:
    """Show a run's report on loopback until Ctrl-C: curves, health, completions with rewards, made anew as it grows."""
    from alignkit.run.serve.watch import watch_run

    def ready(url: str) -> None:
        typer.echo(f"{run} on {url}/, read again every {every} s; stop with Ctrl-C")
        sys.stdout.flush()

    watch_run(run, port=port, every_s=every, ready=ready)
