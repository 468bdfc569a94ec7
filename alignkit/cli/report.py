"""`alignkit report`: a run or an evaluation as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.output import JsonOption, print_json
from alignkit.errors import ContentError


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run or of an evaluation.")],
    card: Annotated[bool, typer.Option("--card", help="Of an evaluation: also write model_card.md.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write report.html: of a run curves, health, completions; of an evaluation numbers, intervals, answers."""
    from alignkit.evaluate.results.eval_folder import is_eval_folder
    from alignkit.run_folder.run_folder import RECIPE

    if not run.is_dir():
        raise ContentError(f"there is no run folder {run}")
    is_run = (run / RECIPE).exists() or (run / "metrics.jsonl").exists()
    if is_eval_folder(run) and not is_run:
        written = _report_evaluation(run, card)
    elif card:
        raise ContentError(f"{run}: --card needs an eval folder, and there is no result.json in this one")
    else:
        from alignkit.report.html import write_report

        written = [write_report(run)]
    if as_json:
        print_json({"report": str(written[0]), "written": [str(path) for path in written]})
    else:
        for path in written:
            typer.echo(path)


def _report_evaluation(folder: Path, card: bool) -> list[Path]:
    from alignkit.evaluate.results.eval_folder import read_eval_folder
    from alignkit.report.eval_data import evaluation_data
    from alignkit.report.eval_html import write_eval_report

    return write_eval_report(evaluation_data(read_eval_folder(folder)), folder / "report.html", with_card=card)
