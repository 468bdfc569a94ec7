"""Which of several recipes is better on the same held-out tasks, by how much and how sure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from alignkit.evaluate.results.before_after import Comparison, adjust, compare, shown_p
from alignkit.evaluate.statistics.repeats import Repeats, compare_repeats
from alignkit.evaluate.statistics.statistics import Interval

Scores = Mapping[Hashable, float]
"""Held-out item -> score of one run's answers to it, their mean where there are several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One recipe's evaluations. seeds: (the run's seed, its scores), one per run."""

    name: str
    seeds: Sequence[tuple[Hashable, Scores]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Two recipes by their names. comparison: over the items that both have, or None with the cause.

    repeats: the same over seeds, where both have several. The comparison's p-value is then the larger of the two and
    its interval holds both: better is only what items *and* seeds show.
    """

    first: str
    second: str
    comparison: Comparison | None
    repeats: Repeats | None = None
    left_out: int = 0
    cause: str = ""

    @property
    def sentence(self) -> str:
        found = self.comparison
        if found is None:
            return f"{self.first} and {self.second} are not compared: {self.cause}"
        low, high, p_value = found.interval.low, found.interval.high, found.p_value
        shown = shown_p(p_value) + (f", {shown_p(found.adjusted)} by Holm" if found.adjusted is not None else "")
        seen = f"{found.tasks} tasks and {sum(self.repeats.seeds)} runs" if self.repeats else f"{found.tasks} tasks"
        if found.verdict == "no detectable change":
            return (
                f"no detectable difference between {self.first} and {self.second}: {found.before:.3f} and "
                f"{found.after:.3f} on {found.tasks} tasks ({found.difference:+.3f}, 95 % {low:+.3f} to {high:+.3f}, "
                f"{shown}); {seen} show differences from about {min(found.detectable, 1.0):.3f} upwards"
            )
        better, worse, sides = self.second, self.first, (found.after, found.before)
        if found.verdict == "worse":
            better, worse, sides, low, high = worse, better, sides[::-1], -high, -low
        return (
            f"{better} is better than {worse} by {abs(found.difference):.3f} ({sides[0]:.3f} against {sides[1]:.3f} on "
            f"{found.tasks} tasks, 95 % {low:.3f} to {high:.3f}, {found.test}, {shown}"
            f"{'' if self.repeats else '; not tested over seeds'})"
        )


def verdicts(
    pairs: Sequence[tuple[Scored, Scored]], causes: Mapping[tuple[str, str], str], *, seed: int = 0
) -> list[Verdict]:
    """Pairs of recipes, all of them one family by Holm's method. causes: of pairs that must not be compared."""
    found = [_pair(*pair, causes.get((pair[0].name, pair[1].name), ""), seed) for pair in pairs]
    tested = [verdict.comparison for verdict in found if verdict.comparison]
    if len(tested) > 1:
        tested = adjust(tested, lower_is_better=[False] * len(tested))
    told = iter(tested)
    return [replace(verdict, comparison=next(told)) if verdict.comparison else verdict for verdict in found]


def item_scores(
    results: Sequence[Mapping[str, Any]], measure: str, *, by_question: bool = True
) -> dict[Hashable, float]:
    """(task, what it asked) -> mean of the column `measure` over its answers; items without a number are left out.

    by_question False: the task's id alone counts, for evaluations that did not record what was asked.
    """
    scores: dict[Hashable, list[float]] = {}
    for row in results:
        if row.get(measure) is not None:
            question = row.get("asked") if by_question else None
            scores.setdefault((str(row.get("task_id")), question), []).append(float(row[measure]))
    return {item: fmean(values) for item, values in scores.items()}


def _pair(first: Scored, second: Scored, cause: str, seed: int) -> Verdict:
    sides = [_mean_scores(one) for one in (first, second)]
    shared = [item for item in sides[0] if item in sides[1]]
    if cause or not shared:
        cause = cause or f"they share no scored task ({first.name} has {len(sides[0])}, {second.name} {len(sides[1])})"
        return Verdict(first=first.name, second=second.name, comparison=None, cause=cause)
    comparison = compare(*([side[item] for item in shared] for side in sides), seed=seed)
    repeats = compare_repeats(*(_seed_means(one, set(shared)) for one in (first, second)))
    if repeats:
        over = "paired t-test" if repeats.paired else "Welch's t-test"
        counts = f"{repeats.seeds[0]}" if repeats.paired else f"{repeats.seeds[0]} and {repeats.seeds[1]}"
        comparison = _with_seeds(comparison, repeats, f"{comparison.test} over tasks and {over} over {counts} seeds")
    left_out = len(sides[0].keys() | sides[1].keys()) - len(shared)
    return Verdict(first=first.name, second=second.name, comparison=comparison, repeats=repeats, left_out=left_out)


def _with_seeds(comparison: Comparison, repeats: Repeats, test: str) -> Comparison:
    """Both must be sure: the larger p-value (an intersection-union test), the interval around both."""
    p_value = max(comparison.p_value, repeats.p_value)
    ends = [comparison.interval, repeats.interval]
    return replace(
        comparison,
        p_value=p_value,
        interval=Interval(min(end.low for end in ends), max(end.high for end in ends)),
        test=test,
        detectable=max(comparison.detectable, repeats.detectable),
        verdict=comparison.verdict if p_value < 0.05 else "no detectable change",
    )


def _mean_scores(recipe: Scored) -> dict[Hashable, float]:
    values: dict[Hashable, list[float]] = {}
    for _, scores in recipe.seeds:
        for item, value in scores.items():
            values.setdefault(item, []).append(value)
    return {item: fmean(each) for item, each in values.items()}


def _seed_means(recipe: Scored, shared: set[Hashable]) -> dict[Hashable, float]:
    """Each seed's mean over the shared items that it has; runs of the same seed are one repetition."""
    means: dict[Hashable, list[float]] = {}
    for seed, scores in recipe.seeds:
        known = [value for item, value in scores.items() if item in shared]
        if known:
            means.setdefault(seed, []).append(fmean(known))
    return {seed: fmean(each) for seed, each in means.items()}
