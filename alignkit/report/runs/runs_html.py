"""One self-contained HTML page about several runs: verdicts, what their recipes differ in, curves over one another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from alignkit.report.chart import Trace, overlaid_chart, running_mean, short_number
from alignkit.report.html import CHARTS, shown
from alignkit.report.run_data import RunData, read_run, series, spelled_out
from alignkit.report.runs.runs_data import Data, grouped_series
from alignkit.report.terminal import duration
from alignkit.run_folder.names import meaning
from alignkit.types.files import write_atomically

Line = list[tuple[float, float]]
MINUTES = ("reward/mean", "eval/accuracy")
"""Metrics that are also drawn over the minutes that the steps took."""
BAND = "mean over seeds, band from the lowest to the highest"


@dataclass(frozen=True, slots=True)
class Overlay:
    title: str
    svg: Markup
    notes: Sequence[tuple[int, str]]


def write_runs_report(data: Data, target: Path) -> list[Path]:
    """Writes the page about `runs_data` to `target` and its numbers to the same name ending in .json."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, render(data))
    numbers = target.with_suffix(".json")
    write_atomically(numbers, json.dumps(data, indent=1, ensure_ascii=False, default=str))
    return [target, numbers]


def render(data: Data) -> str:
    """The page as text. Curves are read from the runs' folders."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(shown=shown, number=short_number, duration=duration)
    return environment.get_template("runs/runs.html.j2").render(
        title=f"{len(data['runs'])} runs, {len(data['recipes'])} recipes",
        colours={recipe["letter"]: index for index, recipe in enumerate(data["recipes"])},
        charts=_charts(data),
        band=BAND if any(len(recipe["runs"]) > 1 for recipe in data["recipes"]) else "",
        **{key: value for key, value in data.items() if key != "kind"},
    )


def _charts(data: Data) -> list[Overlay]:
    runs = [read_run(Path(run["path"]), completions=False) for run in data["runs"]]
    letters = [run["letter"] for run in data["runs"]]
    groups = [[i for i, own in enumerate(letters) if own == recipe["letter"]] for recipe in data["recipes"]]
    minutes = [_minutes([runs[i] for i in members]) for members in groups]
    charts = []
    for title, names, log in CHARTS:
        spelled = dict.fromkeys(name for run in runs for name in spelled_out(run.metrics, names))
        known = [name for name in spelled if any(map(any, (grouped_series(runs, own, name) for own in groups)))]
        for name in known:
            lines = [[line for line in grouped_series(runs, members, name) if line] for members in groups]
            traces = [_trace(letters[groups[i][0]], i, each, log) for i, each in enumerate(lines) if each]
            charts.append(_overlay(title if len(known) == 1 else f"{title}: {name}", name, traces, log))
            if name in MINUTES:
                timed = [_moved(trace, minutes[trace.colour]) for trace in traces]
                charts.append(_overlay(f"{title} over minutes of training", name, timed, log))
    return [chart for chart in charts if chart.svg]


def _overlay(title: str, name: str, traces: Sequence[Trace], log: bool) -> Overlay:
    notes = [
        (trace.colour, f"{trace.letter}: {short_number(trace.points[0][1])} → {short_number(trace.points[-1][1])}")
        for trace in traces
        if trace.points
    ]
    return Overlay(title, overlaid_chart(traces, title=f"{title} ({meaning(name) or name})", log=log), notes)


def _trace(letter: str, colour: int, lines: Sequence[Line], log: bool) -> Trace:
    """One run: its running mean over its values. Several seeds: their mean at the steps that all have, with a band."""
    smooth = [line if log else running_mean(line) or line for line in lines]
    if len(lines) == 1:
        raw = lines[0] if smooth[0] is not lines[0] else ()
        return Trace(letter=letter, colour=colour, points=smooth[0], raw=raw)
    known = [dict(line) for line in smooth]
    at = [(step, [one[step] for one in known]) for step in sorted(set.intersection(*(set(one) for one in known)))]
    return Trace(
        letter=letter,
        colour=colour,
        points=[(step, fmean(values)) for step, values in at],
        band=[(step, min(values), max(values)) for step, values in at],
    )


def _minutes(runs: Sequence[RunData]) -> list[float]:
    """Minutes that the first n steps took, for n from 0: the mean over a recipe's runs, as far as all of them went."""
    taken = [[seconds / 60 for _, seconds in series(run.metrics, "time/step_s")] for run in runs]
    return list(accumulate((fmean(each) for each in zip(*taken, strict=False)), initial=0.0))


def _moved(trace: Trace, minutes: Sequence[float]) -> Trace:
    """The trace over minutes in place of steps; steps whose time is not known are left out."""

    def at(points: Sequence[Any]) -> list[Any]:
        return [(minutes[int(step)], *rest) for step, *rest in points if step < len(minutes)]

    return replace(trace, points=at(trace.points), raw=at(trace.raw), band=at(trace.band))
