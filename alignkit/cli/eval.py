"""`alignkit eval`: benchmarks on a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.output import EngineOption, JsonOption, check_engine, print_json, print_table
from alignkit.errors import AlignkitError

if TYPE_CHECKING:
    from alignkit.run.evaluate.evaluate import Plan

CUT_WARNING = 0.02  # share of truncated answers above which the table says so


def evaluate(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, or smollm2-135m-instruct.")],
    suite: Annotated[str | None, typer.Option(help="A suite: math, safety, reward, quick, all.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A protocol: a file or a name of `alignkit ls evals`; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many tasks each, chosen by the seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Names all randomness.")] = 0,
    engine: EngineOption = "vllm",
    memory_fraction: Annotated[
        float,
        typer.Option(min=0.05, max=1, help="vLLM's share of a GPU's memory; where rewards use it, too, lower it."),
    ] = 0.9,
    data: Annotated[Path | None, typer.Option(help="Folder of data files; besides $ALIGNKIT_DATA.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of results; default runs/eval/<model>.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on benchmarks. Interrupted runs go on where they stopped; nothing is generated twice."""
    if (suite is None) == (not task):
        raise AlignkitError("eval what? Give one of --suite NAME and --task PROTOCOL (`alignkit ls evals`)")
    check_engine(engine)
    from alignkit.run.evaluate.evaluate import evaluate as run_evaluation
    from alignkit.run.evaluate.evaluate import plan

    wanted = plan(suite, task or (), limit=limit, seed=seed, data=data)
    folder = out or Path("runs/eval") / Path(model).name
    with _progress(wanted) as report:
        results = run_evaluation(
            model, wanted, engine=engine, seed=seed, out=folder, memory_fraction=memory_fraction, report=report
        )
    if as_json:
        print_json({"folder": str(folder / wanted.name), "results": results})
        return
    print_table(("protocol", "metric", "value", "95 % interval", "n", "notes"), table(results))
    for line in scorer_lines(results):
        typer.echo(line)
    typer.echo(f"results: {folder / wanted.name}")


def table(results: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One row per metric. A harm rate is shown only where its result holds an over-refusal rate beside it."""
    rows = []
    for result in results:
        for number, (name, metric) in enumerate(result["metrics"].items()):
            notes = _notes(result) if not number else []
            if metric["value"] is None:
                rows.append((result["protocol"], name, "none", "", "0", metric.get("cause", "")))
                continue
            if "corrected" in metric:
                notes.insert(0, f"corrected for the scorer's errors {_percent(metric['corrected'])}")
            if "over_refusal" in metric:
                beside = metric["over_refusal"]
                notes.insert(0, f"over-refusal {_percent(beside)} ({beside['protocol']})")
            shown = f"{metric['low']:.1%} to {metric['high']:.1%}" if metric["low"] is not None else ""
            row = (result["protocol"], name, f"{metric['value']:.1%}", shown, str(metric["n"]), "; ".join(notes))
            rows.append(row)
    return rows


def scorer_lines(results: Sequence[dict[str, Any]]) -> list[str]:
    """One line per scorer that graded: its name, its hash, and how often it agrees with people where that is known."""
    lines: dict[str, None] = {}
    for scorer in [scorer for result in results for scorer in result["scorers"]]:
        line = f"scorer {scorer['name']} {scorer['hash']}"
        known = scorer["known_error"]
        if known:
            right, wrong = (
                sum(known[f"{verdict}_{kind}"] for kind in ("positive", "negative")) for verdict in ("true", "false")
            )
            line += f": agrees with people on {right / (right + wrong):.1%} of {right + wrong} answers"
        lines[line] = None
    return list(lines)


def _notes(result: dict[str, Any]) -> list[str]:
    counts = result["counts"]
    samples = counts["samples"]
    told = [f"{counts[name]} {name}" for name in ("failed", "unparsed", "empty") if counts[name]]
    if counts["truncated"]:
        mark = " (!)" if counts["truncated"] > CUT_WARNING * samples else ""
        told.insert(0, f"{counts['truncated'] / samples:.0%} truncated{mark}")
    return told


def _percent(rate: dict[str, Any]) -> str:
    return f"{rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})"


@contextmanager
def _progress(wanted: Plan):
    """A bar over all answers on stderr, where that is a terminal; a line per protocol elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        done: set[str] = set()

        def line(name: str, count: int) -> None:
            if name not in done:
                done.add(name)
                print(f"eval: {name}", file=sys.stderr)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting", total=wanted.answers)
        yield lambda name, count: progress.update(bar, description=name, advance=count)
