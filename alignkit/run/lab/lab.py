"""The reward lab: labelled answers through rewards, in the pool that training uses."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.random import Generator, Philox

from alignkit.data.completion_text import completion_text
from alignkit.data.sources import load_tasks
from alignkit.errors import DataError
from alignkit.evaluate.statistics import reward_lab as lab
from alignkit.recipe.lookup.data_file import data_file
from alignkit.recipe.lookup.find import find
from alignkit.recipe.schema import Data, RewardSpec
from alignkit.rewards.learned.probes import PROBES
from alignkit.rewards.pool.blend import part_names
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.serve.wire import text_rollouts
from alignkit.run_folder.versions import installed
from alignkit.types.score import Score
from alignkit.types.seeds import child
from alignkit.types.task import Task

PROBED_TASKS = 50
TIMED_ROWS = 200


@dataclass(frozen=True)
class Table:
    """Labelled answers: one task, completion and label per row. digest: of the file."""

    source: str
    digest: str
    tasks: list[Task]
    completions: list[str]
    right: list[bool]


@dataclass(frozen=True, kw_only=True)
class Lab:
    """How rewards are run. threshold: None chooses one. columns, template: as in a recipe's data section."""

    workers: int = 2
    deadline_s: float = 5.0
    threshold: float | None = None
    seed: int = 0
    limit: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None


def read_table(source: str, settings: Lab) -> Table:
    """The labelled answers of a file. Raises DataError where a row lacks its prompt, completion or label."""
    data = Data(source=source, columns=dict(settings.columns), template=settings.template, limit=settings.limit)
    tasks = load_tasks(data, seed=settings.seed, beside=Path())
    completions, right = [], []
    for number, task in enumerate(tasks, start=1):
        where = f"{source} row {number}"
        completions.append(completion_text(task.columns.get("completion"), where))
        if "label" not in task.columns:
            raise DataError(f"{where}: no column 'label'; name yours with --column label=THEIRS")
        right.append(lab.read_label(task.columns["label"], where))
    return Table(source, digest_of(source), tasks, completions, right)


def examine_reward(spec: RewardSpec, table: Table, settings: Lab, *, probes: bool = True) -> dict[str, Any]:
    """One reward on the table: errors, separation, calibration, exploit probes, times. Plain values for JSON."""
    with closing(RewardPool([spec], workers=settings.workers, beside=Path())) as pool:
        start = time.perf_counter()
        scores = score_rows(pool, table.tasks, table.completions)
        seconds = time.perf_counter() - start
        threshold = _threshold(scores, table.right, settings)
        values = {score.value for score in scores if score.value is not None}
        calibrate = len(values) > 2 and all(0 <= value <= 1 for value in values)
        result = lab.report(scores, table.right, threshold=threshold, calibrate=calibrate)
        found = _run_probes(pool, table, scores, settings) if probes else {}
    result["probes"] = lab.probe_report(found, threshold=threshold, false_accept=result["false_accept"])
    result["time"] = {"seconds": seconds, "answers_per_s": len(scores) / seconds}
    result["scores"] = [_row(score) for score in scores]
    return {**about([spec], table.source, table.digest, len(table.tasks), settings), **result}


def compare_rewards(specs: Sequence[RewardSpec], table: Table, settings: Lab) -> dict[str, Any]:
    """Several rewards on the same table: each one's errors, and how far every two agree."""
    names, reports, all_scores, thresholds = part_names(specs), [], [], []
    for spec in specs:
        with closing(RewardPool([spec], workers=settings.workers, beside=Path())) as pool:
            scores = score_rows(pool, table.tasks, table.completions)
        thresholds.append(_threshold(scores, table.right, settings))
        reports.append(lab.report(scores, table.right, threshold=thresholds[-1], calibrate=False))
        all_scores.append(scores)
    return {
        **about(specs, table.source, table.digest, len(table.tasks), settings),
        "names": names,
        "reports": reports,
        "agreement": lab.agreement(names, all_scores, table.right, thresholds),
    }


def bench_reward(spec: RewardSpec, table: Table, settings: Lab) -> dict[str, Any]:
    """Answers per second with one worker and with all, and the time of one answer alone (at most 200 rows)."""
    speeds = []
    for workers in sorted({1, settings.workers}):
        start = time.perf_counter()
        with closing(RewardPool([spec], workers=workers, beside=Path())) as pool:
            started = time.perf_counter() - start
            alone = _times(pool, table) if workers == 1 else []
            start = time.perf_counter()
            scores = score_rows(pool, table.tasks, table.completions)
            seconds = time.perf_counter() - start
        speeds.append(
            {
                "workers": workers,
                "start_s": started,
                "seconds": seconds,
                "answers_per_s": len(scores) / seconds,
                "timeouts": sum(score.fault is not None and score.fault.kind == "timeout" for score in scores),
                **(lab.percentiles(alone) if alone else {}),
            }
        )
    about_it = about([spec], table.source, table.digest, len(table.tasks), settings)
    return {**about_it, "rows": len(table.tasks), "speed": speeds}


def score_rows(pool: RewardPool, tasks: Sequence[Task], completions: Sequence[str]) -> list[Score]:
    """One Score per row. Rows with the same prompt are one group where the reward compares completions."""
    groups: dict[str, list[int]] = {}
    for number, task in enumerate(tasks):
        groups.setdefault(str(number) if pool.per_rollout else prompt_key(task), []).append(number)
    asked = [
        (tasks[rows[0]], text_rollouts(tasks[rows[0]], [completions[n] for n in rows])) for rows in groups.values()
    ]
    answers = asyncio.run(pool.score(asked))
    scores: dict[int, Score] = {}
    for rows, group in zip(groups.values(), answers, strict=True):
        scores.update(zip(rows, group, strict=True))
    return [scores[number] for number in range(len(tasks))]


def prompt_key(task: Task) -> str:
    """Equal for rows that ask the same: their completions are one group."""
    return repr((task.text if task.messages is None else list(task.messages), task.reference))


def _run_probes(
    pool: RewardPool, table: Table, scores: Sequence[Score], settings: Lab
) -> dict[str, list[tuple[Score, Score | None]]]:
    """Every exploit on at most PROBED_TASKS rows whose own answer is wrong (all rows where none is)."""
    wrong = [number for number, right in enumerate(table.right) if not right]
    order = Generator(Philox(key=child(settings.seed, "probes"))).permutation(len(wrong or table.tasks))
    rows = [(wrong or list(range(len(table.tasks))))[int(place)] for place in order[:PROBED_TASKS]]
    found = {}
    for probe in PROBES:
        texts = {n: probe.make(table.tasks[n], table.completions[n] if wrong else None) for n in rows}
        used = [(n, text) for n in rows if (text := texts[n]) is not None]
        if used:
            given = score_rows(pool, [table.tasks[n] for n, _ in used], [text for _, text in used])
            honest = [scores[n] if wrong else None for n, _ in used]
            found[probe.name] = list(zip(given, honest, strict=True))
    return found


def _times(pool: RewardPool, table: Table) -> list[float]:
    """Seconds of each of the first rows, asked one after the other; a first call that is not counted warms up."""
    score_rows(pool, table.tasks[:1], table.completions[:1])
    seconds = []
    for task, completion in zip(table.tasks[:TIMED_ROWS], table.completions, strict=False):
        start = time.perf_counter()
        score_rows(pool, [task], [completion])
        seconds.append(time.perf_counter() - start)
    return seconds


def _threshold(scores: Sequence[Score], right: Sequence[bool], settings: Lab) -> lab.Threshold:
    if settings.threshold is not None:
        return lab.Threshold(settings.threshold, "given")
    return lab.choose_threshold(scores, right, seed=settings.seed)


def digest_of(source: str) -> str:
    """SHA-256 of a data file, empty for what is no file."""
    path = data_file(source, Path())
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else ""


def about(specs: Sequence[RewardSpec], source: str, digest: str, rows: int, settings: Lab) -> dict[str, Any]:
    """What the numbers depend on: the same values give the same numbers, times apart."""
    rewards = []
    for spec in specs:
        path = find("rewards", spec.name, beside=Path()).path
        own_digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        rewards.append({"name": spec.name, "options": dict(spec.options), "file_sha256": own_digest})
    return {
        "rewards": rewards,
        "table": {"source": source, "sha256": digest, "rows": rows},
        "seed": settings.seed,
        "versions": installed(),
    }


def _row(score: Score) -> dict[str, Any]:
    fault = score.fault
    return {"value": score.value, "fault": None if fault is None else fault.kind.value}
