"""Reads what an evaluation left behind: `result.json` and `samples.parquet` of every protocol below a folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, FiniteFloat, NonNegativeInt, ValidationError

from alignkit.errors import DataError
from alignkit.evaluate.benchmark.many_samples import pass_at_k

DEPTH = 3  # an eval folder holds <suite>/<protocol>/result.json
TEXT_COLUMNS = ("task_id", "category", "prompt", "completion", "stop", "outcome", "parts")

WORSE_WHEN_HIGH = re.compile(
    r"harm(?!less)|attack_success|unsafe_compl|over_refusal|refusal_rate|toxic|incoherent|truncat|fail|unparsed|empty"
    r"|(?:^|[_/ -])(?:ece|brier|loss|kl|perplexity|errors?)(?:$|[_/ -])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """One number of a result. low, high: 95 % interval, None where it has none. cause: why the value is None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    cause: str = ""
    corrected: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer. score: 0 ... 1, or None when it could not be scored; outcome says what happened."""

    task_id: str
    sample: int = 0
    category: str = ""
    prompt: str = ""
    completion: str = ""
    stop: str = ""
    tokens: int | None = None
    score: float | None = None
    outcome: str = ""
    parts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """One protocol, measured on one model. lower_is_better: by metric, where the log says so; else names decide."""

    protocol: str
    protocol_hash: str
    protocol_fields: Mapping[str, Any] = field(default_factory=dict)
    category: str = ""
    model: str = ""
    model_hash: str = ""
    engine: str = ""
    seed: int | None = None
    scorers: Sequence[Mapping[str, Any]] = ()
    metrics: Mapping[str, MetricResult] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, MetricResult]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lower_is_better: Mapping[str, bool] = field(default_factory=dict)
    seconds: float | None = None
    started: str = ""
    samples: Sequence[Sample] = ()

    def share(self, count: str) -> float | None:
        """Share of samples counted under a name such as `truncated`; None when nothing was sampled."""
        samples = self.counts.get("samples")
        return self.counts.get(count, 0) / samples if samples else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalFolder:
    """All results below a folder, by protocol, and one sentence per thing that could not be read."""

    path: Path
    results: Mapping[str, EvalResult]
    missing: Sequence[str] = ()

    @property
    def model(self) -> str:
        return ", ".join(dict.fromkeys(result.model for result in self.results.values() if result.model)) or "unnamed"


def is_eval_folder(path: Path) -> bool:
    """Whether a result.json lies in the folder or up to three levels below."""
    return path.is_dir() and bool(_result_files(path))


def read_eval_folder(path: Path) -> EvalFolder:
    """Reads every result below `path`; damaged ones become sentences in `missing`.

    Raises DataError when there is no readable result, or when one protocol occurs twice with different answers.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such eval folder; `alignkit eval MODEL --suite NAME` makes one")
    results: dict[str, EvalResult] = {}
    missing: list[str] = []
    for file in _result_files(path):
        try:
            result = _read_result(file, missing)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines() or [type(error).__name__]
            missing.append(f"{file.relative_to(path)} cannot be read: {reason[0][:200]}")
            continue
        if result.protocol in results:
            raise DataError(f"{path}: holds two results of {result.protocol}; name the folder of one of them")
        results[result.protocol] = result
    if not results:
        raise DataError(f"{path}: {missing[0] if missing else 'holds no result.json, so no evaluation'}")
    return EvalFolder(path=path, results=results, missing=missing)


def lower_is_better(metric: str, result: EvalResult | None = None) -> bool:
    """Whether a smaller value of the metric is the better one: as the result says, else by the metric's name."""
    told = result.lower_is_better.get(metric) if result else None
    return bool(WORSE_WHEN_HIGH.search(metric)) if told is None else told


def task_values(result: EvalResult, metric: str) -> dict[str, float] | None:
    """Task id -> mean of the metric over its samples; None when the samples do not tell this metric.

    A sample tells a metric by a number of that name in `parts`, `pass@k` and `avg@k` by its score. Where `parts` tells
    no metric at all, the first one is the score itself.
    """
    told = {name for sample in result.samples for name in sample.parts}
    if metric in told:
        return _means([(sample, sample.parts.get(metric)) for sample in result.samples])
    pass_size = re.fullmatch(r"pass@([0-9]+)", metric)
    if pass_size:
        return _pass_values(result.samples, int(pass_size.group(1)))
    first = next(iter(result.metrics), None) if not told & set(result.metrics) else None
    if metric == first or re.fullmatch(r"(avg|mean)@[0-9]+", metric):
        return _means([(sample, sample.score) for sample in result.samples])
    return None


def _means(pairs: Sequence[tuple[Sample, Any]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for sample, value in pairs:
        if isinstance(value, bool | int | float) and math.isfinite(value):
            values.setdefault(sample.task_id, []).append(float(value))
    return {task: fmean(known) for task, known in values.items()}


def _pass_values(samples: Sequence[Sample], k: int) -> dict[str, float] | None:
    scores: dict[str, list[float]] = {}
    for sample in samples:
        if sample.score is not None:
            scores.setdefault(sample.task_id, []).append(sample.score)
    if any(score not in (0.0, 1.0) for known in scores.values() for score in known):
        return None
    return {task: pass_at_k(len(s), int(sum(s)), k) for task, s in scores.items() if len(s) >= k}


def _result_files(path: Path) -> list[Path]:
    patterns = ["/".join(["*"] * depth + ["result.json"]) for depth in range(DEPTH + 1)]
    return sorted(file for pattern in patterns for file in path.glob(pattern))


class _Number(BaseModel):
    value: FiniteFloat | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    n: NonNegativeInt | None = None
    unit: str = ""
    cause: str = ""
    corrected: dict[str, FiniteFloat] | None = None


class _KnownError(BaseModel, extra="allow"):
    metrics: list[str] = []


class _Scorer(BaseModel):
    name: str
    hash: str
    known_error: _KnownError | None = None


class _Curve(BaseModel):
    x_label: str = ""
    lines: dict[str, list[tuple[FiniteFloat, FiniteFloat]]] = {}


class _Model(BaseModel):
    name: str = ""
    hash: str = ""


class _Record(BaseModel):
    """result.json, as far as it is read."""

    protocol: str
    protocol_hash: str
    protocol_fields: dict[str, Any] = {}
    category: str = ""
    model: _Model = _Model()
    engine: str = ""
    seed: int | None = None
    scorers: list[_Scorer] = []
    metrics: dict[str, _Number] = {}
    counts: dict[str, NonNegativeInt] = {}
    groups: dict[str, dict[str, _Number]] = {}
    curves: dict[str, _Curve] = {}
    seconds: FiniteFloat | None = None
    started: str = ""


def _read_result(file: Path, missing: list[str]) -> EvalResult:
    try:
        record = _Record.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}") from error
    told = {name: getattr(record, name) for name in ("protocol", "protocol_hash", "protocol_fields", "category")}
    told |= {name: getattr(record, name) for name in ("engine", "seed", "counts", "seconds", "started")}
    return EvalResult(
        **told,
        model=record.model.name,
        model_hash=record.model.hash,
        scorers=[scorer.model_dump() for scorer in record.scorers],
        metrics=_metrics(record.metrics),
        groups={group: _metrics(metrics) for group, metrics in record.groups.items()},
        curves={title: curve.model_dump() for title, curve in record.curves.items()},
        samples=_read_samples(file.with_name("samples.parquet"), missing),
    )


def _metrics(record: Mapping[str, _Number]) -> dict[str, MetricResult]:
    return {name: MetricResult(**number.model_dump()) for name, number in record.items()}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _read_samples(file: Path, missing: list[str]) -> list[Sample]:
    import pyarrow.parquet as parquet

    try:
        rows = parquet.read_table(file).to_pylist()
        return [_sample(row) for row in rows]
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors derive from these
        reason = str(error).splitlines() or [type(error).__name__]
        missing.append(f"{file.parent.name}/{file.name} cannot be read: {reason[0][:200]}")
        return []


def _sample(row: Mapping[str, Any]) -> Sample:
    text = {name: str(row.get(name) or "") for name in TEXT_COLUMNS}
    parts = text.pop("parts")
    told = json.loads(parts) if parts else {}
    return Sample(
        **text,
        sample=int(row.get("sample") or 0),
        tokens=row.get("tokens"),
        score=_number(row.get("score")),
        parts=told if isinstance(told, dict) else {},
    )
