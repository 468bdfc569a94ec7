"""Two evaluations of the same protocols: what changed, tested per metric, with the suite as one family."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignkit.errors import DataError
from alignkit.evaluate.benchmark.protocol import NOT_HASHED
from alignkit.evaluate.results.before_after import Comparison, adjust, compare
from alignkit.evaluate.results.eval_folder import EvalFolder, EvalResult, MetricResult, lower_is_better, task_values
from alignkit.evaluate.results.safety_pair import is_harm, over_refusal

TRUNCATION_LIMIT = 0.02  # more than this share of answers cut off is worth a warning
ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One metric on both sides. comparison: the paired test, or None with the cause; left_out: tasks of one side."""

    protocol: str
    metric: str
    category: str
    before: MetricResult
    after: MetricResult
    comparison: Comparison | None
    left_out: int = 0
    cause: str = ""

    @property
    def verdict(self) -> str:
        return self.comparison.verdict if self.comparison else "not tested"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteComparison:
    """All metrics that two folders share. notes: what a reader must know before believing the verdicts."""

    before: EvalFolder
    after: EvalFolder
    changes: Sequence[Change]
    notes: Sequence[str]

    @property
    def tests(self) -> int:
        return sum(change.comparison is not None for change in self.changes)


def compare_folders(
    before: EvalFolder, after: EvalFolder, *, only: Sequence[str] = (), seed: int = 0
) -> SuiteComparison:
    """Compares every metric of every protocol that both folders hold, verdicts by Holm over all tests.

    only: protocols to compare; default all. A harm rate is left out unless an over-refusal rate is compared as well.
    Raises DataError when they share no protocol, when `only` names one that they do not share, or when a shared
    protocol's hash or scorer differs; the message names the first setting that does.
    """
    shared = [name for name in before.results if name in after.results]
    absent = [name for name in only if name not in shared]
    if absent or not shared:
        what = f"no result of {absent[0]} on both sides" if absent else "no protocol in common"
        raise DataError(f"{before.path} and {after.path}: {what}; they hold {_names(before)} and {_names(after)}")
    chosen = [name for name in shared if not only or name in only]
    for name in chosen:
        check_comparable(before.results[name], after.results[name])
    paired = all(over_refusal([folder.results[name] for name in chosen]) for folder in (before, after))
    changes = [
        change for name in chosen for change in _changes(before.results[name], after.results[name], paired, seed)
    ]
    return SuiteComparison(
        before=before, after=after, changes=_as_family(changes, before), notes=_notes(before, after, chosen, paired)
    )


def check_comparable(before: EvalResult, after: EvalResult) -> None:
    """Raises DataError, naming the first setting that differs, when the two were measured by different protocols."""
    name, sides = before.protocol, (before, after)
    if before.protocol_hash != after.protocol_hash:
        hashes = f"{before.protocol_hash[:12]} and {after.protocol_hash[:12]}"
        ours, theirs = ({k: v for k, v in r.protocol_fields.items() if k not in NOT_HASHED} for r in sides)
        found = first_difference(ours, theirs)
        why = f"{found[0]} is {found[1]} in A and {found[2]} in B" if found else "their recorded settings are equal"
        raise DataError(f"{name}: protocol hashes differ ({hashes}): {why}; evaluate both with one protocol")
    olds, news = ({str(s.get("name")): s.get("hash") for s in r.scorers} for r in (before, after))
    found = first_difference(olds, news)
    if found:
        raise DataError(f"{name}: scorer {found[0]} has hash {found[1]} in A and {found[2]} in B; evaluate both anew")


def first_difference(before: Any, after: Any, path: str = "") -> tuple[str, str, str] | None:
    """(dotted path, value before, value after) of the first leaf that differs, in the order of `before`; else None."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys: Sequence[Any] = list(dict.fromkeys([*before, *after]))
        olds, news = before, after
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        keys = range(max(len(before), len(after)))
        olds, news = dict(enumerate(before)), dict(enumerate(after))
    else:
        same = before == after and type(before) is type(after)
        return None if same else (path or "protocol", _shown(before), _shown(after))
    for key in keys:
        place = f"{path}.{key}" if path else str(key)
        if key not in olds or key not in news:
            old, new = (_shown(side[key]) if key in side else ABSENT for side in (olds, news))
            return place, old, new
        found = first_difference(olds[key], news[key], place)
        if found:
            return found
    return None


def _changes(before: EvalResult, after: EvalResult, paired: bool, seed: int) -> list[Change]:
    changes = []
    for name, old in before.metrics.items():
        new = after.metrics.get(name)
        if new is None or (is_harm(name) and not paired):
            continue
        comparison, left_out, cause = _tested(before, after, name, seed)
        changes.append(
            Change(
                protocol=before.protocol,
                metric=name,
                category=before.category,
                before=old,
                after=new,
                comparison=comparison,
                left_out=left_out,
                cause=cause,
            )
        )
    return changes


def _tested(before: EvalResult, after: EvalResult, metric: str, seed: int) -> tuple[Comparison | None, int, str]:
    """(paired comparison or None, tasks with a value on one side only, why there is none)."""
    if re.match(r"(g-)?pass@|maj@", metric) and any(name.startswith("avg@") for name in before.metrics):
        return None, 0, "the same answers as avg@k, which is tested"
    olds, news = task_values(before, metric), task_values(after, metric)
    if olds is None or news is None:
        return None, 0, "the samples do not tell it one by one"
    tasks = [task for task in olds if task in news]
    if not tasks:
        return None, len(olds) + len(news), "no task has a value on both sides"
    comparison = compare(
        [olds[task] for task in tasks],
        [news[task] for task in tasks],
        seed=seed,
        lower_is_better=lower_is_better(metric, before),
    )
    return comparison, len(olds.keys() | news.keys()) - len(tasks), ""


def _as_family(changes: Sequence[Change], before: EvalFolder) -> list[Change]:
    tested = [(change, change.comparison) for change in changes if change.comparison]
    lower = [lower_is_better(change.metric, before.results[change.protocol]) for change, _ in tested]
    adjusted = iter(adjust([comparison for _, comparison in tested], lower_is_better=lower))
    return [replace(change, comparison=next(adjusted)) if change.comparison else change for change in changes]


def _notes(before: EvalFolder, after: EvalFolder, chosen: Sequence[str], paired: bool) -> list[str]:
    notes = [f"A: {line}" for line in before.missing] + [f"B: {line}" for line in after.missing]
    for label, folder, other in (("A", before, after), ("B", after, before)):
        alone = [name for name in folder.results if name not in other.results]
        if alone:
            notes.append(f"only {label} holds {', '.join(alone)}")
    for name in chosen:
        old, new = before.results[name], after.results[name]
        if not paired and any(is_harm(metric) for metric in old.metrics):
            notes.append(f"{name}: its harm rate is not shown, because not both sides have an over-refusal rate")
        if old.model_hash and old.model_hash == new.model_hash:
            notes.append(f"{name}: both sides are the same model ({old.model_hash[:12]})")
        if old.engine != new.engine:
            notes.append(f"{name}: measured on {old.engine or 'an unnamed engine'} in A and on {new.engine} in B")
        for label, result in (("A", old), ("B", new)):
            notes += [f"{name}: {line} in {label}" for line in result_warnings(result)]
    return notes


def result_warnings(result: EvalResult) -> list[str]:
    """What counts against a result: answers cut off, answers without a score, tasks that were never answered."""
    lines = []
    truncated = result.share("truncated")
    if truncated is not None and truncated > TRUNCATION_LIMIT:
        lines.append(f"{truncated:.1%} of the answers were cut by the length limit")
    for count, what in (("failed", "could not be scored"), ("unparsed", "held no answer that could be read")):
        share = result.share(count)
        if share:
            lines.append(f"{share:.1%} of the answers {what}")
    return lines


def _names(folder: EvalFolder) -> str:
    return ", ".join(folder.results)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"
