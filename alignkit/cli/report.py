"""`alignkit report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.output import JsonOption, print_json
from alignkit.errors import ContentError


def report(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    as_json: JsonOption = False,
) -> None:
    """Write a run's report.html: curves, health, best and worst completions, recipe, versions; no network needed."""
    from alignkit.report.html import write_report

    if not run.is_dir():
        raise ContentError(f"there is no run folder {run}")
    path = write_report(run)
    if as_json:
        print_json({"report": str(path)})
    else:
        typer.echo(path)
