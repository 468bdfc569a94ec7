"""One self-contained HTML page about a run: no script, no font, no file from elsewhere; everything escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alignkit.errors import DataError
from alignkit.evaluate.results.before_after import Comparison, compare_results, task_scores
from alignkit.evaluate.statistics.statistics import Interval, wilson_interval
from alignkit.report.chart import line_chart, short_number, stacked_chart
from alignkit.report.clean_text import cut_middle
from alignkit.report.run_data import (
    RunData,
    flipped,
    health_summary,
    metric_names,
    read_run,
    series,
    spelled_out,
    status,
    total_steps,
    versions,
)
from alignkit.report.terminal import PHASES, duration
from alignkit.run_folder import json_lines
from alignkit.run_folder.names import meaning
from alignkit.types.files import write_atomically

TEXT_SHOWN = 2000  # characters of a long text

CHARTS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("Reward", ("reward/mean",), False),
    ("Held-out accuracy", ("eval/accuracy",), False),
    ("Loss", ("loss/policy", "loss/reward"), False),
    ("Entropy, nats a token", ("policy/entropy",), False),
    ("KL, nats a token", ("policy/kl_sampler", "policy/kl_reference"), False),
    ("Gradient norm", ("optim/grad_norm",), True),
    ("Completion length, tokens", ("rollout/length_mean", "rollout/length_max"), False),
    (
        "Shares",
        ("rollout/truncated_frac", "rollout/zero_spread_frac", "reward/unscorable_frac", "policy/clip_frac"),
        False,
    ),
    ("Turns of an episode", ("rollout/turns_mean",), False),
    ("How episodes end, shares", ("rollout/end/",), False),
    ("Faults of rewards and environments", ("reward/fault/",), False),
    ("Tool calls that failed", ("tools/fault/",), False),
    ("Errors of utterance critics", ("critic/q_error", "critic/v_error"), True),
    ("Canary gap after sync, nats", ("sync/canary_gap",), False),
    ("Learning rate", ("optim/lr",), False),
)


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    svg: Markup
    labels: list[str]
    notes: list[str]


def write_report(run_dir: Path) -> Path:
    """Writes `<run>/report.html` and returns its path; a partial run gives a report that says what is missing.

    Raises DataError when the folder does not exist.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such run folder; a run folder holds metrics.jsonl and recipe.resolved.json")
    target = run_dir / "report.html"
    write_atomically(target, render(read_run(run_dir)))
    return target


def render(run: RunData) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(shown=shown, number=short_number, clock=_clock, duration=duration)
    environment.tests["in_turns"] = lambda name, turns: any(turn.get(name) is not None for turn in turns)
    comparison, notes = _before_after(run)
    return environment.get_template("report.html.j2").render(
        title=run.path.resolve().name,
        summary=_summary(run),
        comparison=comparison,
        comparison_notes=notes,
        flips=flipped(run.evaluations[0], run.evaluations[-1]) if comparison else {"gained": [], "lost": []},
        evaluations=[_evaluation_row(record) for record in run.evaluations],
        charts=_charts(run),
        health=health_summary(run.events),
        trained_questions=[event for event in run.events if event.get("kind") == "trained_questions"],
        steps=len(run.metrics),
        examples=run.examples,
        recipe=json.dumps(run.recipe, indent=2, ensure_ascii=False),
        versions=versions(run.events),
        events=[_event_row(event) for event in run.events if event.get("kind") != "health"][-200:],
        metrics=_metric_rows(run),
        missing=run.missing,
    )


def shown(text: object) -> str:
    """Text as far as it is shown: control characters made visible, the middle of a long one left out and counted."""
    whole = cut_middle(str(text), TEXT_SHOWN)
    return "".join(
        character if character in "\n\t" or (character.isprintable() or character.isspace()) else "\ufffd"
        for character in whole
        if character != "\r"
    )


def _before_after(run: RunData) -> tuple[Comparison | None, list[str]]:
    if len(run.evaluations) < 2:
        return None, []
    before, after = run.evaluations[0], run.evaluations[-1]
    try:
        comparison, unpaired = compare_results(before["results"], after["results"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        run.missing.append(f"before/after: {error}")
        return None, []
    notes = [f"{unpaired} tasks have a score on one side only and are left out"] if unpaired else []
    for side, record in (("before", before), ("after", after)):
        cut = record.get("truncated_frac")
        if cut is not None and cut > 0.02:
            notes.append(f"{cut:.1%} of the answers {side} were cut by the length limit, which counts against them")
    return comparison, notes


def _summary(run: RunData) -> list[tuple[str, str]]:
    """The tiles on top: label and value."""
    total, rewards = total_steps(run.recipe), series(run.metrics, "reward/mean")
    model = run.recipe.get("model")
    path = model.get("path") if isinstance(model, Mapping) else None
    done = len(run.metrics)
    tiles = [
        ("status", status(run.events, done=done, total=total)),
        ("steps", f"{done} of {total}" if total else f"{done}"),
    ]
    if path or model:
        tiles.append(("model", str(path or "built from nothing")))
    if rewards:
        tiles.append(("mean reward, first to last step", f"{rewards[0][1]:.3f} → {rewards[-1][1]:.3f}"))
    if run.metrics and (written := _clock(run.metrics[-1].get("time/clock_s"))):
        tiles.append(("last step written", written))
    seconds = [value for _, value in series(run.metrics, "time/step_s")]
    if seconds:
        tiles.append(("time in steps", duration(sum(seconds))))
    tokens = [value for _, value in series(run.metrics, "rollout/tokens")]
    if tokens:
        tiles.append(("tokens sampled", f"{sum(tokens):,.0f}"))
    return tiles


def _evaluation_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of one evaluation; the interval is Wilson's over tasks, where every task is right or wrong."""
    scores = list(task_scores([row for row in record["results"] if "correct" in row]).values())
    interval: Interval | None = None
    if scores and all(score in (0.0, 1.0) for score in scores):
        interval = wilson_interval(int(sum(scores)), len(scores))
    return {
        "stage": record.get("stage", ""),
        "step": record.get("step", 0),
        "accuracy": sum(scores) / len(scores) if scores else None,
        "tasks": len(scores),
        "interval": interval,
    }


def _charts(run: RunData) -> list[Chart]:
    charts = []
    for title, names, log in CHARTS:
        known = spelled_out(run.metrics, names)
        lines = {name: points for name in known if (points := series(run.metrics, name))}
        if title == "Held-out accuracy":
            rows = [_evaluation_row(record) for record in run.evaluations]
            points = [(float(row["step"]), row["accuracy"]) for row in rows if row["accuracy"] is not None]
            lines = {"eval/accuracy": list(dict(points).items())} if points else lines
        if lines:
            charts.append(Chart(title, line_chart(lines, title=title, log=log), list(lines), _notes(lines)))
    spans = {f"time/{phase}_s": series(run.metrics, f"time/{phase}_s") for phase in PHASES}
    spans = {name: points for name, points in spans.items() if points}
    if spans:
        title = "Where a step's seconds go"
        means = [f"{name}: mean {duration(sum(v for _, v in points) / len(points))}" for name, points in spans.items()]
        charts.append(Chart(title, stacked_chart(spans, title=title), list(spans), means))
    return charts


def _notes(lines: Mapping[str, list[tuple[float, float]]]) -> list[str]:
    """One sentence of numbers per line of a chart, for readers who cannot see or hover it."""
    notes = []
    for name, points in lines.items():
        values = [value for _, value in points]
        first, last = short_number(values[0]), short_number(values[-1])
        notes.append(f"{name}: {first} → {last}, between {short_number(min(values))} and {short_number(max(values))}")
    return notes


def _metric_rows(run: RunData) -> list[dict[str, Any]]:
    rows = []
    for name in metric_names(run.metrics):
        if name == "time/clock_s":
            continue
        values = [value for _, value in series(run.metrics, name)]
        told = {"first": values[0], "last": values[-1], "low": min(values), "high": max(values)} if values else {}
        rows.append({"name": name, "meaning": meaning(name) or "", "numbers": told})
    return rows


def _event_row(event: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in event.items() if key not in ("kind", "step", "versions", "time/clock_s")}
    return {
        "kind": event.get("kind", ""),
        "step": event.get("step"),
        "clock": event.get("time/clock_s"),
        "rest": json_lines.dumps(rest) if rest else "",
    }


def _clock(seconds: object) -> str:
    """A Unix time for people, in UTC."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < 1e11:
        return ""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
