"""Before against after on the same tasks: difference, interval, exact test, and a verdict in fixed words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from alignkit.errors import DataError
from alignkit.evaluate.statistics.statistics import (
    Interval,
    holm,
    mcnemar_exact,
    minimum_detectable_effect,
    paired_bootstrap,
    sign_flip_test,
    wilson_interval,
)

Verdict = Literal["better", "worse", "no detectable change"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two scores of the same tasks.

    before, after: mean score; difference: after - before. before_interval, after_interval: Wilson for right/wrong
    tasks, else None. interval: of the difference (paired bootstrap over tasks). p_value and test: exact McNemar for
    right/wrong tasks, sign flips else. tasks: number of pairs. detectable: smallest difference that this many tasks
    show with 80 % power. adjusted: the p-value after Holm's method where several comparisons were made at once, else
    None. verdict: one of three fixed phrases; sentence: the same with its numbers.
    """

    before: float
    after: float
    difference: float
    before_interval: Interval | None
    after_interval: Interval | None
    interval: Interval
    p_value: float
    test: str
    tasks: int
    detectable: float
    verdict: Verdict
    adjusted: float | None = None

    @property
    def sentence(self) -> str:
        shown = shown_p(self.p_value)
        if self.adjusted is not None:
            shown += f", {shown_p(self.adjusted)} by Holm"
        text = (
            f"{self.verdict}: {self.before:.3f} -> {self.after:.3f} on {self.tasks} tasks ({self.difference:+.3f}, "
            f"95 % interval {self.interval.low:+.3f} to {self.interval.high:+.3f}, {self.test} {shown})"
        )
        if self.verdict == "no detectable change":
            text += f"; {self.tasks} tasks show differences from about {min(self.detectable, 1.0):.3f} upwards"
        return text


def compare(
    before: Sequence[bool | float],
    after: Sequence[bool | float],
    *,
    significance: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
    lower_is_better: bool = False,
) -> Comparison:
    """Compares two scores per task, in the same order of tasks. lower_is_better: a fall is called "better".

    Raises DataError when the lengths differ or are 0.
    """
    if len(before) != len(after) or not before:
        raise DataError(f"before and after must score the same tasks, at least 1; got {len(before)} and {len(after)}")
    olds, news = [float(value) for value in before], [float(value) for value in after]
    differences = [new - old for old, new in zip(olds, news, strict=True)]
    binary = all(value in (0.0, 1.0) for value in (*olds, *news))
    if binary:
        p_value = mcnemar_exact(differences.count(1.0), differences.count(-1.0))
        intervals = [wilson_interval(int(sum(values)), len(values)) for values in (olds, news)]
    else:
        p_value = sign_flip_test(differences, draws=draws, seed=seed)
        intervals = [None, None]
    difference = fmean(differences)
    # at least 0.15 for right/wrong: with hardly any pair that differs, the spread seen here promises too much power
    spread = max(fmean(value * value for value in differences), 0.15 if binary else 0.0)
    return Comparison(
        before=fmean(olds),
        after=fmean(news),
        difference=difference,
        before_interval=intervals[0],
        after_interval=intervals[1],
        interval=paired_bootstrap(differences, draws=draws, seed=seed),
        p_value=p_value,
        test="exact McNemar test" if binary else "sign-flip test",
        tasks=len(differences),
        detectable=minimum_detectable_effect(len(differences), spread=spread, significance=significance),
        verdict=_verdict(-difference if lower_is_better else difference, p_value, significance),
    )


def adjust(
    comparisons: Sequence[Comparison], *, lower_is_better: Sequence[bool], significance: float = 0.05
) -> list[Comparison]:
    """The same comparisons as one family: verdicts by Holm's adjusted p-values.

    The chance of any false verdict among them is at most `significance`. `detectable` becomes that of the first step
    of Holm's method, significance / number of comparisons.
    """
    level = significance / max(len(comparisons), 1)
    adjusted = holm([comparison.p_value for comparison in comparisons])
    ratio = minimum_detectable_effect(1, significance=level) / minimum_detectable_effect(1, significance=significance)
    return [
        replace(
            comparison,
            adjusted=p_value,
            detectable=comparison.detectable * ratio,
            verdict=_verdict(-comparison.difference if lower else comparison.difference, p_value, significance),
        )
        for comparison, p_value, lower in zip(comparisons, adjusted, lower_is_better, strict=True)
    ]


def shown_p(p_value: float) -> str:
    """A p-value for people: p = 0.016, or p < 0.0001."""
    return f"p = {p_value:.2g}" if p_value >= 0.0001 else "p < 0.0001"


def task_scores(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Task id -> mean score over its scored answers; tasks without a scored answer (correct None) are left out."""
    scores: dict[str, list[float]] = {}
    for row in results:
        if row["correct"] is not None:
            scores.setdefault(str(row["task_id"]), []).append(float(row["correct"]))
    return {task: fmean(values) for task, values in scores.items()}


def compare_results(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> tuple[Comparison, int]:
    """Pairs two evaluations ({task_id, correct, ...} per answer) by task and compares them.

    Returns the comparison and the number of tasks left out because only one side has a score for them.
    Raises DataError when no task has a score on both sides.
    """
    old, new = task_scores(before), task_scores(after)
    shared = [task for task in old if task in new]
    if not shared:
        raise DataError(f"the two evaluations share no scored task; they score {len(old)} and {len(new)} tasks")
    comparison = compare([old[task] for task in shared], [new[task] for task in shared], seed=seed)
    return comparison, len(old.keys() | new.keys()) - len(shared)


def _verdict(gain: float, p_value: float, significance: float) -> Verdict:
    if p_value >= significance or gain == 0:
        return "no detectable change"
    return "better" if gain > 0 else "worse"
