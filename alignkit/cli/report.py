"""`alignkit report`: a run or an evaluation as one HTML file; several runs on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.output import JsonOption, print_json, print_table
from alignkit.errors import ContentError

COMPARED = "compared.html"


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="The folder of a run or of an evaluation, or several runs.")
    ],
    card: Annotated[bool, typer.Option("--card", help="Of an evaluation: also write model_card.md.")] = False,
    out: Annotated[
        Path | None, typer.Option(help=f"Of several runs: the page; default {COMPARED} in the first run's folder.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of several runs: seed of the bootstrap and the random tests.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write report.html: of a run curves, health, completions; of an evaluation numbers, intervals, answers; of several
    runs their curves over one another, what their recipes differ in, and which is better and how sure."""
    kinds = [_is_evaluation(folder) for folder in runs]
    if len(runs) > 1:
        _report_runs(runs, kinds, card, out, seed, as_json)
        return
    [run], [evaluated] = runs, kinds
    if out is not None:
        raise ContentError("--out names the page of several runs; one run's page is report.html in its folder")
    if evaluated:
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


def _is_evaluation(folder: Path) -> bool:
    from alignkit.evaluate.results.eval_folder import is_eval_folder
    from alignkit.run_folder.run_folder import RECIPE

    if not folder.is_dir():
        raise ContentError(f"there is no run folder {folder}")
    is_run = (folder / RECIPE).exists() or (folder / "metrics.jsonl").exists()
    return is_eval_folder(folder) and not is_run


def _report_evaluation(folder: Path, card: bool) -> list[Path]:
    from alignkit.evaluate.results.eval_folder import read_eval_folder
    from alignkit.report.eval_data import evaluation_data
    from alignkit.report.eval_html import write_eval_report

    return write_eval_report(evaluation_data(read_eval_folder(folder)), folder / "report.html", with_card=card)


def _report_runs(
    runs: Sequence[Path], evaluations: Sequence[bool], card: bool, out: Path | None, seed: int, as_json: bool
) -> None:
    from alignkit.report.runs.runs_data import runs_data
    from alignkit.report.runs.runs_html import write_runs_report

    if any(evaluations):
        raise ContentError(f"{runs[evaluations.index(True)]} is an eval folder; `alignkit compare A B` compares two")
    if card:
        raise ContentError("--card needs an eval folder; several runs have no model card")
    data = runs_data(runs, seed=seed)
    written = write_runs_report(data, out or runs[0] / COMPARED)
    if as_json:
        print_json(data | {"written": [str(path) for path in written]})
        return
    _print(data)
    for path in written:
        typer.echo(path)


def _print(data: Mapping[str, Any]) -> None:
    from alignkit.report.clean_text import one_line
    from alignkit.report.terminal import duration

    def number(value: float | None) -> str:
        return "none" if value is None else f"{value:.3f}"

    rows = [
        (
            *(run["letter"], run["name"], f"{run['seed']}", f"{run['steps']} of {run['total']}"),
            *(number(run[name]) for name in ("reward", "accuracy_before", "accuracy")),
            *(duration(run["seconds"]) if run["seconds"] else "", run["status"]),
        )
        for run in data["runs"]
    ]
    headers = ("", "run", "seed", "steps", "reward, last tenth", "accuracy before", "accuracy", "time", "status")
    print_table(headers, [[one_line(cell) for cell in row] for row in rows])
    letters = [recipe["letter"] for recipe in data["recipes"]]
    if data["differences"]:
        table = [[one_line(cell) for cell in (row["key"], *row["values"])] for row in data["differences"]]
        print_table(("setting", *letters), table)
    best = data["evaluation"]["best"]
    if best:
        typer.echo(best["sentence"])
    for row in data["evaluation"]["verdicts"]:
        typer.echo(one_line(row["sentence"]))
    for row in data["health"]["rules"]:
        fired = [
            f"{name} {cell['level']} in {cell['count']} steps"
            for name, cell in zip(data["health"]["names"], row["runs"], strict=True)
            if cell
        ]
        typer.echo(one_line(f"health, {row['rule']}: {', '.join(fired)}"))
    for line in data["missing"]:
        typer.echo(one_line(f"note: {line}"))
