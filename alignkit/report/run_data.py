"""Reads a run folder, whole or broken, into what the report shows; what cannot be read becomes a sentence."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from alignkit.errors import first_line
from alignkit.run_folder import json_lines
from alignkit.run_folder.run_folder import RECIPE, step_of
from alignkit.types.rollout import EpisodeEnd

EXAMPLES = 3
ROLLOUT_COLUMNS = (
    *("step", "task_id", "prompt", "completion", "turns", "reward", "parts", "fault", "stop", "completion_tokens"),
    *("policy_version", "advantage"),
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Completions of one step: best and worst by reward, and some that could not be scored.

    environments: of each one what became of its episodes; none where completions are answers.
    """

    step: int
    best: list[Row]
    worst: list[Row]
    unscored: list[Row]
    environments: list[Row] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class RunData:
    """Everything a report needs. missing: one sentence per thing that is absent or damaged."""

    path: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    examples: list[Examples] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_run(path: Path, *, completions: bool = True) -> RunData:
    """Never raises for a partial or damaged folder; `missing` says what is not there. completions: read some, too."""
    run = RunData(path=path)
    recipe = _read_json(path / RECIPE, run.missing)
    run.recipe = recipe if isinstance(recipe, dict) else {}
    run.metrics = [
        record
        for record in _read_lines(path / "metrics.jsonl", run.missing, "no step was finished")
        if isinstance(record.get("step"), int)
    ]
    run.events = _read_lines(path / "events.jsonl", run.missing, "the run recorded no event")
    for file in sorted((path / "evaluations").glob("*.json"), key=lambda file: (step_of(file), file.name)):
        record = _read_json(file, run.missing)
        if isinstance(record, dict) and isinstance(record.get("results"), list):
            run.evaluations.append(record)
    run.evaluations.sort(key=lambda record: record.get("step", 0))
    if len(run.evaluations) < 2:
        run.missing.append(f"before/after: {len(run.evaluations)} of the 2 evaluations it takes are in evaluations/")
    run.examples = _read_examples(path / "rollouts", run.missing) if completions else []
    return run


def series(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) of a metric wherever it is a finite number."""
    return [
        (record["step"], float(value))
        for record in metrics
        if isinstance(value := record.get(name), int | float) and math.isfinite(value)
    ]


def metric_names(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """All metric names, in order of first appearance."""
    return [name for name in dict.fromkeys(name for record in metrics for name in record) if "/" in name]


def spelled_out(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """The names, with those that begin so in the place of one that ends in a slash."""
    known = metric_names(metrics)
    return [one for name in names for one in ([n for n in known if n.startswith(name)] if name[-1] == "/" else [name])]


def health_summary(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per health rule that fired: worst level, number of steps, first and last step, last sentence, advice."""
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("kind") != "health":
            continue
        row = rows.setdefault(str(event.get("name")), {"level": "warn", "steps": set()})
        row["steps"].add(event.get("step", 0))
        if event.get("level") == "stop":
            row["level"] = "stop"
        row["sentence"], row["advice"] = event.get("sentence", ""), event.get("advice", "")
    summary = [
        {"name": name, **row, "count": len(row["steps"]), "first": min(row["steps"]), "last": max(row["steps"])}
        for name, row in rows.items()
    ]
    return sorted(summary, key=lambda row: (row["level"] != "stop", -row["count"]))


def status(events: Sequence[Mapping[str, Any]], *, done: int, total: int | None) -> str:
    """How the run stands: the reason of its `end` event, else what its steps and its start say."""
    if total is not None and done >= total:
        return "finished"
    for event in reversed(events):
        if event.get("kind") == "end":
            return str(event.get("reason", "ended"))
        if event.get("kind") in ("start", "resume"):
            return "has not ended: still running, or killed"
    return "unknown: it recorded no start"


def versions(events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The versions that the last start or resume recorded."""
    for event in reversed(events):
        if isinstance(event.get("versions"), dict):
            return event["versions"]
    return {}


def total_steps(recipe: Mapping[str, Any]) -> int | None:
    """Steps that the recipe asks for over all stages, or None when it does not say."""
    try:
        return sum(int(stage["train"]["steps"]) for stage in recipe["stages"])
    except (KeyError, TypeError, ValueError):
        return None


def flipped(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """First answers per task that turned right (`gained`) or wrong (`lost`), with both texts."""
    old, new = _first_answers(before), _first_answers(after)
    pairs = [(task, old[task], new[task]) for task in old if task in new]
    found: dict[str, list[dict[str, Any]]] = {"gained": [], "lost": []}
    for task, was, now in pairs:
        change = float(now["correct"]) - float(was["correct"])
        if abs(change) == 1:
            row = {"task_id": task, "before": str(was.get("text", "")), "after": str(now.get("text", ""))}
            found["gained" if change > 0 else "lost"].append(row)
    return found


def _first_answers(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    answers: dict[str, Mapping[str, Any]] = {}
    for row in evaluation["results"]:
        if row.get("correct") is not None:
            answers.setdefault(str(row.get("task_id")), row)
    return answers


def _read_examples(folder: Path, missing: list[str]) -> list[Examples]:
    """Examples of the first and of the last step that has a readable rollout file."""
    files = sorted(folder.glob("*.parquet"), key=step_of)
    if not files:
        missing.append("completions: rollouts/ holds no file")
    found = []
    for file in dict.fromkeys([*files[-1:], *files[:1]]):
        try:
            found.append(_examples(file))
        except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors derive from these
            missing.append(f"rollouts/{file.name} cannot be read: {first_line(error)[:200]}")
    return found


def _examples(file: Path) -> Examples:
    import pyarrow.parquet as parquet

    rows = parquet.read_table(file, columns=list(ROLLOUT_COLUMNS)).to_pylist()
    for row in rows:
        row["turns"] = json.loads(row["turns"]) if row["turns"] else []
    scored = sorted((row for row in rows if row["reward"] is not None), key=lambda row: -row["reward"])
    best = scored[:EXAMPLES]
    worst = scored[max(len(best), len(scored) - EXAMPLES) :][::-1]
    unscored = [row for row in rows if row["reward"] is None][:EXAMPLES]
    return Examples(step=step_of(file), best=best, worst=worst, unscored=unscored, environments=_environments(rows))


def _environments(rows: Sequence[Row]) -> list[Row]:
    """Of each source of episodes: their number, mean return and turns, how they ended, what failed."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["turns"] or row["stop"] in [str(end) for end in EpisodeEnd]:
            found.setdefault(row["task_id"].rpartition("/")[0] or row["task_id"], []).append(row)
    return [
        {
            "name": name,
            "episodes": len(own),
            "return": fmean(paid) if (paid := [row["reward"] for row in own if row["reward"] is not None]) else None,
            "turns": fmean(len(row["turns"]) for row in own),
            "ends": Counter(row["stop"] for row in own).most_common(),
            "faults": Counter(row["fault"].partition(":")[0] for row in own if row["fault"]).most_common(),
            "tool_faults": Counter(
                fault for row in own for turn in row["turns"] for fault in turn.get("tool_faults") or ()
            ).most_common(),
        }
        for name, own in found.items()
    ]


def _read_lines(path: Path, missing: list[str], absent: str) -> list[dict[str, Any]]:
    records, bad = json_lines.read_tolerant(path)
    if bad:
        missing.append(f"{path.name}: {bad} lines cannot be read and were skipped")
    if not records:
        missing.append(f"{path.name} is {'empty' if path.exists() else 'missing'}: {absent}")
    return records


def _read_json(path: Path, missing: list[str]) -> Any:
    if not path.exists():
        missing.append(f"{path.name} is missing")
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        missing.append(f"{path.name} cannot be read: {error}")
        return None
