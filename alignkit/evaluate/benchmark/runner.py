"""One benchmark on one model: tasks, answers, grades, and a folder with the result."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignkit.errors import AlignkitError
from alignkit.evaluate.benchmark import metrics
from alignkit.evaluate.benchmark.answers import AnswerLog, Model, collect_answers
from alignkit.evaluate.benchmark.choices import collect_choices
from alignkit.evaluate.benchmark.grade import Graded, grade, scorer_files, scorer_hash
from alignkit.evaluate.benchmark.pairs import grade_pairs, pair_metrics
from alignkit.evaluate.benchmark.protocol import Named
from alignkit.recipe.lookup.find import find
from alignkit.recipe.schema import RewardSpec
from alignkit.types.files import make_folder, replace_atomically, write_atomically
from alignkit.types.task import Task

RESULT, SAMPLES = "result.json", "samples.parquet"
VERSION = 1  # of how answers become numbers: raised when that changes, so that old results are made anew


@dataclass(frozen=True, kw_only=True)
class BenchmarkJob:
    """A protocol with the tasks to ask. limit: how many were wanted, None for all."""

    named: Named
    tasks: Sequence[Task]
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs jobs on `model` into `folder`; `logs` is where answers are kept between runs.

    report: called with the protocol's name and the number of answers that are done since the last call.
    reward: what protocols of pairs measure; `model` then only names it.
    """

    model: Model
    folder: Path
    logs: Path
    seed: int
    workers: int = 2
    report: Callable[[str, int], None] = field(default=lambda name, done: None)
    reward: RewardSpec | None = None

    def run_all(
        self, jobs: Sequence[BenchmarkJob], finished: Callable[[dict[str, Any]], None] = lambda result: None
    ) -> list[dict[str, Any]]:
        """The results of all jobs, in order; controls of harm rates run first. finished: called with each result."""
        results: dict[str, dict[str, Any]] = {}
        controls = {job.named.protocol.control for job in jobs}
        for job in sorted(jobs, key=lambda job: job.named.name not in controls):
            name = job.named.name
            results[name] = self.run(job, results.get(job.named.protocol.control or ""))
            finished(results[name])
        return [results[job.named.name] for job in jobs]

    def run(self, job: BenchmarkJob, control: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The result as it stands in result.json; read from there when the same was measured before.

        control: result of the protocol's control, whose over-refusal rate stands beside a harm rate. Raises
        EngineError when the engine dies: what was answered is kept, and the next call goes on.
        """
        place = self.folder / job.named.name.replace("/", "-")
        key = self._key(job, control)
        known = _read(place / RESULT)
        if known is not None and known.get("key") == key and (place / SAMPLES).exists():
            return known | {"cached": True}
        begun, started = time.perf_counter(), datetime.now(UTC)
        graded = self._graded(job)
        numbers = self._numbers(job, graded)
        named_control = job.named.protocol.control or "a `control` protocol"
        numbers = metrics.with_control(numbers, control["metrics"] if control else {}, named_control)
        result = {
            "protocol": job.named.name,
            "protocol_hash": job.named.hash,
            "protocol_fields": job.named.fields,
            "category": job.named.protocol.category,
            "model": {"name": self.model.name, "hash": self.model.hash},
            "engine": self.model.kind,
            "seed": self.seed,
            "limit": job.limit,
            "scorers": self._scorers(job),
            "metrics": numbers,
            "counts": metrics.count(graded),
            "groups": metrics.by_group(graded, lambda part: self._numbers(job, part)),
            "seconds": round(time.perf_counter() - begun, 3),
            "started": started.isoformat(timespec="seconds"),
            "key": key,
        }
        make_folder(place)
        _write_samples(place / SAMPLES, graded, refusals=job.named.protocol.measure == "refusals")
        _write(place / RESULT, result)
        return result

    def _graded(self, job: BenchmarkJob) -> list[list[Graded]]:
        protocol, name = job.named.protocol, job.named.name
        log = AnswerLog(self.logs / f"{self._answers_key(job)}.jsonl")

        def report(done: int) -> None:
            self.report(name, done)

        if protocol.measure == "pairs":
            if self.reward is None:
                raise AlignkitError(f"{name} measures a reward, not a model: name one of `alignkit ls rewards`")
            return grade_pairs(job.tasks, self.reward, beside=Path(), workers=self.workers, report=report)
        if protocol.measure == "choices":
            return asyncio.run(collect_choices(self.model, job.tasks, log, report=report))
        assert protocol.sampling is not None, "a Protocol that is answered has sampling"
        answers = asyncio.run(
            collect_answers(self.model, job.tasks, protocol.sampling, log, seed=self.seed, report=report)
        )
        graded = grade(job.tasks, answers, protocol.metrics, beside=job.named.file.parent, workers=self.workers)
        return [[_classed(one) for one in given] for given in graded] if protocol.measure == "refusals" else graded

    def _numbers(self, job: BenchmarkJob, graded: Sequence[Sequence[Graded]]) -> dict[str, metrics.Number]:
        protocol = job.named.protocol
        if protocol.measure == "refusals":
            return metrics.refusal_metrics(graded, known_error(job.named))
        if protocol.measure == "pairs":
            return pair_metrics(graded)
        names = list(protocol.metrics) or list(graded[0][0].values)
        return metrics.answer_metrics(graded, names)

    def _scorers(self, job: BenchmarkJob) -> list[dict[str, Any]]:
        beside = job.named.file.parent
        known = known_error(job.named) if job.named.protocol.measure == "refusals" else None
        told = {**known, "metrics": [metrics.OVER_REFUSAL]} if known else None
        return [
            {"name": name if name == metric.reward else f"{name}: {metric.reward}", "hash": scorer_hash(metric, beside),
             "known_error": told}
            for name, metric in job.named.protocol.metrics.items()
        ]  # fmt: skip

    def _answers_key(self, job: BenchmarkJob) -> str:
        """Names the log of answers: they depend on the model, the engine, the protocol and the seed."""
        text = "\n".join([self.model.hash, self.model.kind, job.named.hash, str(self.seed)])
        return f"{job.named.name.replace('/', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _key(self, job: BenchmarkJob, control: Mapping[str, Any] | None) -> str:
        """Names the whole result: the answers, the tasks chosen, the scorers, and the control's result."""
        scorers = [scorer["hash"] for scorer in self._scorers(job)]
        parts = [
            str(VERSION),
            self._answers_key(job),
            str(job.limit),
            str(len(job.tasks)),
            *scorers,
            str((control or {}).get("key")),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def known_error(named: Named) -> dict[str, Any] | None:
    """The first scorer's counts against human labels, from the weights file beside it; None where it has none."""
    metric = next(iter(named.protocol.metrics.values()), None)
    if metric is None:
        return None
    found = find("rewards", metric.reward, beside=named.file.parent)
    cards = [_read(file) or {} for file in scorer_files(found.path)]
    return next((card["known_error"] for card in cards if "known_error" in card), None)


def _classed(one: Graded) -> Graded:
    """With the class of answer that the refusal scorer names in its parts as the outcome."""
    if one.ungraded:
        return one
    classes = {"full": "refused", "partial": "partial", "complied": "complied", "incoherent": "incoherent"}
    named = [outcome for part, outcome in classes.items() if one.parts.get(part) == 1.0]
    outcome = named[0] if len(named) == 1 else "unscored"  # another scorer than one that tells the classes
    values = one.values if outcome not in ("incoherent", "unscored") else dict.fromkeys(one.values)
    return Graded(task=one.task, answer=one.answer, values=values, outcome=outcome, parts=one.parts)


def _write_samples(path: Path, graded: Sequence[Sequence[Graded]], *, refusals: bool) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [_row(one, refusals=refusals) for given in graded for one in given]
    schema = pyarrow.schema(
        [
            (name, pyarrow.string())
            for name in ("task_id", "category", "prompt", "completion", "stop", "outcome", "parts")
        ]
        + [("sample", pyarrow.int64()), ("tokens", pyarrow.int64()), ("score", pyarrow.float64())]
    )
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    replace_atomically(path, lambda place: parquet.write_table(table, place))


def _row(one: Graded, *, refusals: bool) -> dict[str, Any]:
    first = next(iter(one.values), None)
    return {
        "task_id": one.task.id,
        "sample": one.answer.sample,
        "category": one.task.columns.get("group"),
        "prompt": one.task.columns.get("question"),
        "completion": one.answer.text,
        "stop": one.answer.stop,
        "tokens": len(one.answer.token_ids),
        "score": one.values[first] if first else None,
        "outcome": one.outcome,
        "parts": json.dumps(metrics.parts_of(one, refusals=refusals), ensure_ascii=False),
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(path: Path, result: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False))
