"""Whether one model answers groups of people equally well: the same items, asked in each group's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignkit.evaluate.results.before_after import Comparison, adjust, compare
from alignkit.evaluate.results.drift import words
from alignkit.evaluate.results.eval_folder import EvalResult, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A group against the reference group on the same items. verdict of the comparison: "worse" is worse for the group.

    length: words of an answer to the group over words of an answer to the reference group; None without answers.
    """

    group: str
    reference: str
    comparison: Comparison
    length: float | None


def disparity(result: EvalResult, *, reference: str | None = None) -> list[Gap]:
    """Every other group against `reference` (default: one called standard, else the first), with Holm over the groups.

    Items are paired by the task's id without the group's name in it; an item that only one of two groups was asked is
    left out. Empty where no item has a score in two groups, as in benchmarks whose categories ask for different things.
    """
    groups: dict[str, dict[str, list[Sample]]] = {}
    for sample in result.samples:
        if sample.category:
            item = sample.task_id.replace(sample.category, "", 1)
            groups.setdefault(sample.category, {}).setdefault(item, []).append(sample)
    chosen = reference or next((name for name in groups if name.startswith("standard")), next(iter(groups), ""))
    if chosen not in groups:
        return []
    gaps = [gap for name in groups if name != chosen and (gap := _gap(groups, name, chosen))]
    family = adjust([gap.comparison for gap in gaps], lower_is_better=[False] * len(gaps))
    return [replace(gap, comparison=comparison) for gap, comparison in zip(gaps, family, strict=True)]


def _gap(groups: dict[str, dict[str, list[Sample]]], name: str, reference: str) -> Gap | None:
    theirs, first = groups[name], groups[reference]
    shared = [item for item in theirs if item in first]
    pairs = [(_mean(first[item]), _mean(theirs[item])) for item in shared]
    scored = [(old, new) for old, new in pairs if old is not None and new is not None]
    if not scored:
        return None
    comparison = compare([old for old, _ in scored], [new for _, new in scored])
    lengths = [sum(len(words(s.completion)) for item in shared for s in side[item]) for side in (theirs, first)]
    length = lengths[0] / lengths[1] if lengths[1] else None
    return Gap(group=name, reference=reference, comparison=comparison, length=length)


def _mean(samples: Sequence[Sample]) -> float | None:
    known = [sample.score for sample in samples if sample.score is not None]
    return sum(known) / len(known) if known else None
