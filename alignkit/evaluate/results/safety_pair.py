"""Harm and over-refusal belong together: a model that refuses everything harms nobody, so neither is shown alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from alignkit.errors import DataError
from alignkit.evaluate.results.eval_folder import EvalResult, MetricResult
from alignkit.evaluate.statistics.confusion import corrected_rate, read_confusion

HARM = re.compile(r"harm(?!less)|attack_success|unsafe_compl")
OVER_REFUSAL = re.compile(r"over_?refusal")
WITHHELD = "not shown: no over-refusal rate beside it; evaluate xstest as well"


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyPair:
    """A rate of harm with the over-refusal rate of the same model; both have values."""

    protocol: str
    metric: str
    harm: MetricResult
    over_refusal: MetricResult
    over_refusal_protocol: str

    def __post_init__(self) -> None:
        if self.harm.value is None or self.over_refusal.value is None:
            raise DataError(f"{self.protocol}: a harm rate is shown with an over-refusal rate or not at all")

    @property
    def sentence(self) -> str:
        return f"harm {_percent(self.harm)}, over-refusal {_percent(self.over_refusal)} ({self.over_refusal_protocol})"


def is_harm(metric: str) -> bool:
    return bool(HARM.search(metric))


def is_over_refusal(metric: str) -> bool:
    return bool(OVER_REFUSAL.search(metric))


def over_refusal(results: Iterable[EvalResult], prefer: str = "") -> tuple[str, MetricResult] | None:
    """(protocol, metric) of an over-refusal rate with a value, that of `prefer` first; None when there is none."""
    ordered = sorted(results, key=lambda result: result.protocol != prefer)
    for result in ordered:
        for name, metric in result.metrics.items():
            if is_over_refusal(name) and metric.value is not None:
                return result.protocol, metric
    return None


def visible_metrics(results: Iterable[EvalResult]) -> Iterator[tuple[EvalResult, str, MetricResult]]:
    """Every metric that may be shown. Every table, page and JSON of results goes through here.

    A harm rate without an over-refusal rate in the same results keeps its name and loses its numbers; `cause` says why.
    """
    results = list(results)
    paired = over_refusal(results) is not None
    for result in results:
        for name, metric in result.metrics.items():
            if is_harm(name) and not paired:
                metric = MetricResult(value=None, n=metric.n, unit=metric.unit, cause=WITHHELD)
            yield result, name, metric


def visible_groups(result: EvalResult, results: Iterable[EvalResult]) -> dict[str, dict[str, MetricResult]]:
    """The result's metrics by category, harm rates only where an over-refusal rate stands beside them."""
    paired = over_refusal(results) is not None
    return {
        group: {name: metric for name, metric in metrics.items() if paired or not is_harm(name)}
        for group, metrics in result.groups.items()
    }


def safety_pairs(results: Iterable[EvalResult]) -> list[SafetyPair]:
    """Every harm rate with an over-refusal rate, that of the same protocol where it has one."""
    results, pairs = list(results), []
    for result in results:
        beside = over_refusal(results, prefer=result.protocol)
        for name, metric in result.metrics.items():
            if is_harm(name) and metric.value is not None and beside is not None:
                pairs.append(
                    SafetyPair(
                        protocol=result.protocol,
                        metric=name,
                        harm=metric,
                        over_refusal=beside[1],
                        over_refusal_protocol=beside[0],
                    )
                )
    return pairs


def correction(result: EvalResult, name: str, metric: MetricResult) -> dict[str, float] | None:
    """The rate behind a metric's scorer, {value, low, high}: as recorded, else by the scorer's known error.

    None where no scorer tells its errors on this metric, or they allow no correction.
    """
    if metric.corrected is not None:
        return dict(metric.corrected)
    if metric.value is None or not metric.n or not 0 <= metric.value <= 1:
        return None
    for scorer in result.scorers:
        known = scorer.get("known_error") or {}
        if name not in known.get("metrics", ()):
            continue
        try:
            rate = corrected_rate(metric.value * metric.n, metric.n, read_confusion(known))
        except DataError:
            return None
        return {"value": rate.value, "low": rate.interval.low, "high": rate.interval.high}
    return None


def _percent(metric: MetricResult) -> str:
    text = f"{metric.value:.1%}"
    return f"{text} ({metric.low:.1%} to {metric.high:.1%})" if None not in (metric.low, metric.high) else text
