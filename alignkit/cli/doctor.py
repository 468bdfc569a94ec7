"""`alignkit doctor`: whether this machine and this environment can run alignkit."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from alignkit.cli.output import JsonOption, print_json, print_table

NO_GPU = 2  # exit code of --gpu where there is none


def doctor(
    as_json: JsonOption = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Try out the first GPU: attention, engine, weight sync.")] = False,
) -> None:
    """Check versions, missing packages, GPU, driver, memory and disk; exit 1 when something needed is wrong."""
    if gpu:
        _try_gpu(as_json)
        return
    from alignkit.run.check.diagnosis import findings
    from alignkit.run.check.machine import this_machine

    found = findings(this_machine())
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        rows = [(finding.level, finding.name, finding.found, finding.cure) for finding in found]
        print_table(("", "what", "found", "what to do"), rows)
    if any(finding.level == "wrong" for finding in found):
        raise typer.Exit(1)


def _try_gpu(as_json: bool) -> None:
    """A table to paste into a report; exit 2 without a GPU, 1 when one of the trials failed."""
    import torch

    from alignkit.run.check.row import markdown
    from alignkit.run.check.trial import trial

    if not torch.cuda.is_available():
        typer.echo("no GPU that torch can use: run alignkit doctor to see why", err=True)
        raise typer.Exit(NO_GPU)
    rows = trial("cuda")
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        typer.echo(markdown(rows))
    if any(row.level == "wrong" for row in rows):
        raise typer.Exit(1)
