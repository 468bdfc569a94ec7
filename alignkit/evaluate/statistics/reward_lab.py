"""What a reward's scores of labelled answers say about it. Pure: scores and labels in, plain values for JSON out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from numpy.random import Generator, Philox

from alignkit.errors import DataError
from alignkit.evaluate.statistics import separation
from alignkit.evaluate.statistics.statistics import mcnemar_exact, wilson_interval
from alignkit.types.score import Fault, Score
from alignkit.types.seeds import child

ROC_POINTS = 200
SHOWN_ROWS = 20
TRUE = {1, "1", "true", "True", "yes", "right", "correct"}
FALSE = {0, "0", "false", "False", "no", "wrong", "incorrect"}


@dataclass(frozen=True)
class Threshold:
    """Scores at or above `value` accept. how: where it came from. rows: those it is measured on (None: all)."""

    value: float
    how: str
    rows: frozenset[int] | None = None


def read_label(value: Any, where: str) -> bool:
    """A label as a truth value. Raises DataError for anything that is not clearly one."""
    if isinstance(value, bool | int | float | str):
        if value in TRUE:
            return True
        if value in FALSE:
            return False
    raise DataError(f"{where}: the label is {str(value)[:40]!r}; wanted true/false, 1/0, yes/no or right/wrong")


def choose_threshold(scores: Sequence[Score], right: Sequence[bool], *, seed: int = 0) -> Threshold:
    """0.5 where all scores lie in [0, 1]; else the best one on a random half of the rows, measured on the other half.

    Raises DataError when nothing was scored.
    """
    known = {number: score.value for number, score in enumerate(scores) if score.value is not None}
    scored = list(known)
    if not scored:
        fault = next(score.fault for score in scores if score.fault)
        raise DataError(f"none of {len(scores)} rows could be scored; the first: {fault.kind} in {_told(fault)}")
    if all(0 <= value <= 1 for value in known.values()):
        return Threshold(0.5, "scores lie between 0 and 1")
    order = Generator(Philox(key=child(seed, "threshold"))).permutation(len(scored))
    half = [scored[int(place)] for place in order[: len(scored) // 2]] or scored
    value = separation.best_threshold([known[n] for n in half], [right[n] for n in half])
    rest = frozenset(scored) - frozenset(half)
    return Threshold(value, "best on a random half of the rows; measured on the other half", rest or frozenset(scored))


def report(scores: Sequence[Score], right: Sequence[bool], *, threshold: Threshold, calibrate: bool) -> dict[str, Any]:
    """Everything that labelled rows say about one reward.

    false_accept: of the wrong answers that were scored, the share at or above the threshold; false_reject: of the right
    ones, the share below. Unscorable rows are in neither: `unscorable` counts them. calibrate: scores are
    probabilities of being right.
    """
    values = [score.value for score in scores]
    measured = range(len(values)) if threshold.rows is None else sorted(threshold.rows)
    rows = [(number, value) for number in measured if (value := values[number]) is not None]
    wrong = [(number, value >= threshold.value) for number, value in rows if not right[number]]
    good = [(number, value < threshold.value) for number, value in rows if right[number]]
    accepted = [number for number, error in wrong if error]
    rejected = [number for number, error in good if error]
    faults = Counter(score.fault.kind.value for score in scores if score.value is None and score.fault)
    return {
        "rows": len(values),
        "right": sum(right),
        "wrong": len(right) - sum(right),
        "scored": sum(value is not None for value in values),
        "unscorable": dict(sorted(faults.items())),
        "notes": dict(
            sorted(Counter(s.fault.kind.value for s in scores if s.value is not None and s.fault is not None).items())
        ),
        "threshold": {"value": threshold.value, "how": threshold.how, "rows": len(measured)},
        "false_accept": share(len(accepted), len(wrong)),
        "false_reject": share(len(rejected), len(good)),
        "agreement": share(len(wrong) + len(good) - len(accepted) - len(rejected), len(rows)),
        "false_accepts": accepted[:SHOWN_ROWS],
        "false_rejects": rejected[:SHOWN_ROWS],
        **_separation(values, right, calibrate=calibrate),
    }


def probe_report(
    probes: Mapping[str, Sequence[tuple[Score, Score | None]]], *, threshold: Threshold, false_accept: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One entry per exploit. probes: by name, per task (score of the exploit, score of an honest wrong answer).

    paid: share of the scored exploits that were accepted. above_wrong: share scored above the same task's honest wrong
    answer. pays: they are accepted more often than honest wrong answers, beyond doubt (intervals apart).
    """
    results = []
    for name, pairs in probes.items():
        scored = [(own.value, honest) for own, honest in pairs if own.value is not None]
        compared = [
            (value, honest.value) for value, honest in scored if honest is not None and honest.value is not None
        ]
        paid = share(sum(value >= threshold.value for value, _ in scored), len(scored))
        results.append(
            {
                "probe": name,
                "tasks": len(pairs),
                "unscorable": len(pairs) - len(scored),
                "paid": paid,
                "above_wrong": share(sum(value > honest for value, honest in compared), len(compared)),
                "mean": fmean(value for value, _ in scored) if scored else None,
                "pays": bool(scored) and paid["low"] > (false_accept["high"] or 0.0),
            }
        )
    return results


def agreement(
    names: Sequence[str],
    scores: Sequence[Sequence[Score]],
    right: Sequence[bool] | None,
    thresholds: Sequence[Threshold],
) -> list[dict[str, Any]]:
    """How far every two rewards agree on the rows that both could score.

    accepts: share of rows that both accept or both reject, and kappa. spearman: of the scores. With labels: rows on
    which only one is right, and the exact McNemar p-value that they are equally good.
    """
    results = []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            rows = [
                n for n in range(len(scores[i])) if scores[i][n].value is not None and scores[j][n].value is not None
            ]
            one, other = _numbers(scores[i], rows), _numbers(scores[j], rows)
            accept = [value >= thresholds[i].value for value in one]
            accept_other = [value >= thresholds[j].value for value in other]
            same = sum(a == b for a, b in zip(accept, accept_other, strict=True))
            entry: dict[str, Any] = {
                "rewards": [names[i], names[j]],
                "rows": len(rows),
                "same_verdict": share(same, len(rows)),
                "kappa": separation.kappa(accept, accept_other) if rows else None,
                "spearman": separation.spearman(one, other) if rows else None,
                "disagree": [n for n, a, b in zip(rows, accept, accept_other, strict=True) if a != b][:SHOWN_ROWS],
            }
            if right is not None:
                labels = [right[n] for n in rows]
                only_one = sum(a == r != b for a, b, r in zip(accept, accept_other, labels, strict=True))
                only_other = sum(b == r != a for a, b, r in zip(accept, accept_other, labels, strict=True))
                p_value = mcnemar_exact(only_other, only_one)
                entry |= {"only_first_right": only_one, "only_second_right": only_other, "p_value": p_value}
            results.append(entry)
    return results


def share(hits: int, trials: int) -> dict[str, Any]:
    """A rate with Wilson's 95 % interval; its value is None where nothing was tried."""
    if not trials:
        return {"value": None, "low": None, "high": None, "hits": 0, "trials": 0}
    interval = wilson_interval(hits, trials)
    return {"value": hits / trials, "low": interval.low, "high": interval.high, "hits": hits, "trials": trials}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95 % and largest of the given times, in milliseconds."""
    ordered = sorted(seconds)
    picked = {"p50_ms": 0.5, "p95_ms": 0.95, "max_ms": 1.0}
    return {name: 1000 * ordered[round(level * (len(ordered) - 1))] for name, level in picked.items()}


def _separation(values: Sequence[float | None], right: Sequence[bool], *, calibrate: bool) -> dict[str, Any]:
    rows = [(value, right[number]) for number, value in enumerate(values) if value is not None]
    scored, labels = [value for value, _ in rows], [label for _, label in rows]
    area = separation.auc(scored, labels)
    if area is None:
        return {"auc": None, "roc": [], "calibration": None}
    interval = separation.auc_interval(area, sum(labels), len(labels) - sum(labels))
    points = separation.roc(scored, labels)
    stride = max(1, -(-len(points) // ROC_POINTS))
    return {
        "auc": {"value": area, "low": interval.low, "high": interval.high},
        "roc": [*points[:-1:stride], points[-1]],
        "calibration": asdict(separation.calibration(scored, labels)) if calibrate else None,
    }


def _told(fault: Fault) -> str:
    return f"{fault.where}: {fault.message}" if fault.message else fault.where


def _numbers(scores: Sequence[Score], rows: Sequence[int]) -> list[float]:
    return [value for n in rows if (value := scores[n].value) is not None]
