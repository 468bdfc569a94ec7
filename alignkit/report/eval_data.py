"""What a report of evaluations says, as plain data: the page, its JSON, the model card and `compare --json` show this.

One side is an evaluation, two are a comparison; the shape is the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.evaluate.results.compare import Change, SuiteComparison, result_warnings
from alignkit.evaluate.results.disparity import Gap, disparity
from alignkit.evaluate.results.drift import drift
from alignkit.evaluate.results.eval_folder import EvalFolder, EvalResult, MetricResult, Sample
from alignkit.evaluate.results.safety_pair import (
    correction,
    is_harm,
    over_refusal,
    safety_pairs,
    visible_groups,
    visible_metrics,
)
from alignkit.evaluate.statistics.separation import calibration

EXAMPLES = 3  # shown of every outcome
CALIBRATED = 20  # pairs that a calibration curve takes
FLIPS = 5  # shown in each direction
COUNTS = ("truncated", "unparsed", "failed", "empty")
MATTERS_LESS = ("right", "refused", "complied", "scored")  # outcomes shown after those that point at a mistake

Data = dict[str, Any]


def evaluation_data(folder: EvalFolder) -> Data:
    """One folder: its numbers, warnings and examples."""
    data = _data([folder])
    data["rows"] = [
        _row(result, name, [metric], [result]) for result, name, metric in visible_metrics(folder.results.values())
    ]
    data["notes"] = [
        *folder.missing,
        *(f"{result.protocol}: {line}" for result in folder.results.values() for line in result_warnings(result)),
    ]
    data["disparity"] = [
        {"protocol": result.protocol, "gaps": [_gap(gap) for gap in disparity(result)]}
        for result in folder.results.values()
        if result.category != "safety"  # its groups ask for different things
    ]
    paired = over_refusal(folder.results.values()) is not None
    data["examples"] = [
        {
            "protocol": result.protocol,
            "category": result.category,
            # how many complied is a harm rate in other words
            "outcomes": _outcomes(result.samples, counted=paired or not any(map(is_harm, result.metrics))),
        }
        for result in folder.results.values()
    ]
    return data


def comparison_data(comparison: SuiteComparison, *, seed: int = 0) -> Data:
    """Two folders: every change with its test, drift of the answers, flipped answers."""
    sides = [comparison.before, comparison.after]
    names = list(dict.fromkeys(change.protocol for change in comparison.changes)) or list(sides[0].results)
    chosen = [
        EvalFolder(path=side.path, results={n: side.results[n] for n in names if n in side.results}) for side in sides
    ]
    data = _data(chosen)
    data["rows"] = [
        _change_row(change, [side.results[change.protocol] for side in sides]) for change in comparison.changes
    ]
    data["tests"] = comparison.tests
    data["notes"] = list(comparison.notes)
    pairs = [(name, *(side.results[name] for side in chosen)) for name in names if name in chosen[1].results]
    data["drift"] = [
        {"protocol": name, "rows": [_fields(row) for row in drift(old, new, seed=seed)]} for name, old, new in pairs
    ]
    data["flips"] = [{"protocol": name, "category": old.category, **_flips(old, new)} for name, old, new in pairs]
    return data


def without_texts(data: Data) -> Data:
    """The numbers alone: what report.json holds. Prompts and answers stay in samples.parquet."""
    slim = {key: value for key, value in data.items() if key not in ("examples", "flips")}
    slim["flips"] = [{key: flip[key] for key in ("protocol", "gained", "lost")} for flip in data["flips"]]
    slim["outcomes"] = [
        {"protocol": one["protocol"], **{o["outcome"]: o["count"] for o in one["outcomes"]}} for one in data["examples"]
    ]
    return slim


def _data(sides: Sequence[EvalFolder]) -> Data:
    """What one side and two have in common."""
    names = list(dict.fromkeys(name for side in sides for name in side.results))
    found = {name: [side.results[name] for side in sides if name in side.results] for name in names}
    return {
        "kind": "comparison" if len(sides) > 1 else "evaluation",
        "sides": [{"path": str(side.path), "model": side.model} for side in sides],
        "tests": 0,
        "counts": [{"protocol": name, "sides": [_counts(result) for result in found[name]]} for name in names],
        "groups": [group for name in names for group in _groups(name, found[name], sides)],
        "pairs": [
            _pair(pair, side) for side, folder in enumerate(sides) for pair in safety_pairs(folder.results.values())
        ],
        "curves": [
            {"protocol": name, "title": title, "side": side, **curve}
            for name in names
            for side, result in enumerate(found[name])
            for title, curve in (dict(result.curves) | _calibration(result.samples)).items()
        ],
        "protocols": [_protocol(name, found[name]) for name in names],
        "drift": [],
        "disparity": [],
        "flips": [],
        "examples": [],
    }


def _row(result: EvalResult, name: str, metrics: Sequence[MetricResult], results: Sequence[EvalResult]) -> Data:
    return {
        "protocol": result.protocol,
        "category": result.category,
        "metric": name,
        "unit": metrics[0].unit,
        "sides": [
            {**_fields(metric), "corrected": correction(one, name, metric)}
            for one, metric in zip(results, metrics, strict=True)
        ],
        "reference": [
            published
            for published in result.protocol_fields.get("reference") or ()
            if isinstance(published, Mapping) and published.get("metric") == name
        ],
        "change": None,
        "cause": "",
        "verdict": "",
    }


def _change_row(change: Change, results: Sequence[EvalResult]) -> Data:
    row = _row(results[0], change.metric, [change.before, change.after], results)
    row["cause"], row["verdict"] = change.cause, change.verdict
    told = change.comparison
    if told:
        row["change"] = {
            "before": told.before,
            "after": told.after,
            "difference": told.difference,
            "low": told.interval.low,
            "high": told.interval.high,
            "p_value": told.p_value,
            "adjusted": told.adjusted,
            "test": told.test,
            "tasks": told.tasks,
            "left_out": change.left_out,
            "detectable": min(told.detectable, 1.0),
            "sentence": told.sentence,
        }
    return row


def _gap(gap: Gap) -> Data:
    told = gap.comparison
    return {
        "group": gap.group,
        "reference": gap.reference,
        "value": told.after,
        "reference_value": told.before,
        "difference": told.difference,
        "low": told.interval.low,
        "high": told.interval.high,
        "adjusted": told.adjusted,
        "verdict": told.verdict,
        "detectable": min(told.detectable, 1.0),
        "paired": told.tasks,
        "length": gap.length,
    }


def _fields(value: Any) -> Data:
    """The fields of a slotted dataclass, in order."""
    return {name: getattr(value, name) for name in value.__slots__}


def _counts(result: EvalResult) -> Data:
    shares = {name: result.share(name) for name in COUNTS}
    totals = {"samples": result.counts.get("samples", 0), "tasks": result.counts.get("tasks", 0)}
    return {**totals, **shares, "seconds": result.seconds, "warnings": result_warnings(result)}


def _groups(name: str, results: Sequence[EvalResult], sides: Sequence[EvalFolder]) -> list[Data]:
    """Bars by category for the first metric that categories tell, and for both halves of the safety pair."""
    seen = [visible_groups(result, side.results.values()) for result, side in zip(results, sides, strict=False)]
    metrics = list(dict.fromkeys(metric for side in seen for group in side.values() for metric in group))
    chosen = [m for m in metrics if m.startswith(("harm", "over_refusal"))] or metrics[:1]
    found = []
    for metric in chosen:
        groups = dict.fromkeys(group for side in seen for group, told in side.items() if metric in told)
        bars = [
            {"group": group, "sides": [_fields(side[group][metric]) for side in seen if metric in side.get(group, {})]}
            for group in groups
        ]
        found.append({"protocol": name, "metric": metric, "bars": bars})
    return found


def _pair(pair: Any, side: int) -> Data:
    return {
        "side": side,
        "protocol": pair.protocol,
        "metric": pair.metric,
        "over_refusal_protocol": pair.over_refusal_protocol,
        "harm": _fields(pair.harm),
        "over_refusal": _fields(pair.over_refusal),
        "sentence": pair.sentence,
    }


def _protocol(name: str, results: Sequence[EvalResult]) -> Data:
    first = results[0]
    return {
        "name": name,
        "hash": first.protocol_hash,
        "category": first.category,
        "about": str(first.protocol_fields.get("about") or ""),
        "licence": str(first.protocol_fields.get("licence") or ""),
        "fields": dict(first.protocol_fields),
        "scorers": [
            {"name": str(s.get("name")), "hash": str(s.get("hash")), "known_error": s.get("known_error")}
            for s in first.scorers
        ],
        "sides": [
            {"model": r.model, "model_hash": r.model_hash, "engine": r.engine, "seed": r.seed, "started": r.started}
            for r in results
        ],
    }


def _calibration(samples: Sequence[Sample]) -> dict[str, Data]:
    """Of a reward that prefers one of two answers by a margin: its share of right ones by Bradley-Terry confidence."""
    judged = [s for s in samples if isinstance(s.parts.get("margin"), float | int) and s.score in (0.0, 1.0)]
    if len(judged) < CALIBRATED:
        return {}
    # 1 / (1 + exp(-|margin|)), beyond 30 it is 1
    sure = [1 / (1 + math.exp(-min(abs(sample.parts["margin"]), 30.0))) for sample in judged]
    told = calibration(sure, [sample.score == 1.0 for sample in judged])
    points = [(one.mean, one.right) for one in told.bins if one.count]
    lines = {f"share right (calibration error {told.error:.3f})": points, "ideal": [(0.5, 0.5), (1.0, 1.0)]}
    return {"Calibration": {"x_label": "confidence in the preferred answer, sigma(margin)", "lines": lines}}


def _outcomes(samples: Sequence[Sample], *, counted: bool) -> list[Data]:
    """Every outcome with its count (None unless `counted`) and the first answers that have it, mistakes first."""
    counts = Counter(sample.outcome or "no outcome" for sample in samples)
    ordered = sorted(counts, key=lambda outcome: (outcome in MATTERS_LESS, -counts[outcome], outcome))
    return [
        {
            "outcome": outcome,
            "count": counts[outcome] if counted else None,
            "rows": [_fields(s) for s in samples if (s.outcome or "no outcome") == outcome][:EXAMPLES],
        }
        for outcome in ordered
    ]


def _flips(before: EvalResult, after: EvalResult) -> Data:
    """First answers per task whose score went from 0 to 1 (`gained`) or back (`lost`): counts, and some with texts."""
    olds, news = ({s.task_id: s for s in reversed(result.samples)} for result in (before, after))
    found: dict[str, list[Data]] = {"gained": [], "lost": []}
    for task, old in reversed(olds.items()):
        new = news.get(task)
        if new is None or (old.score, new.score) not in ((0.0, 1.0), (1.0, 0.0)):
            continue
        kind = "gained" if new.score == 1.0 else "lost"
        told = {"task_id": task, "prompt": old.prompt, "category": old.category}
        found[kind].append({**told, "before": old.completion, "after": new.completion})
    return {
        "gained": len(found["gained"]),
        "lost": len(found["lost"]),
        "examples": {kind: rows[:FLIPS] for kind, rows in found.items()},
    }
