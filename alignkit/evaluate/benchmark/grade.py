"""Answers through the rewards that grade them: a value per metric, and an outcome in fixed words."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from alignkit.evaluate.benchmark.answers import Answer
from alignkit.evaluate.benchmark.protocol import MetricSpec
from alignkit.recipe.lookup.find import find
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

OUTCOMES = {FaultKind.TIMEOUT: "timeout", FaultKind.CRASH: "crashed", FaultKind.GOLD: "gold_error"}
WORTHLESS = {FaultKind.PARSE: "unparsed", **OUTCOMES}  # graded, and wrong for this reason
FAILURES = ("failed", "timeout", "crashed", "gold_error", "unscored")


@dataclass(frozen=True, kw_only=True)
class Graded:
    """An answer with its grades. values: by metric, None when it could not be graded. outcome: of the first metric.

    parts: what else the first metric's reward says, by name.
    """

    task: Task
    answer: Answer
    values: Mapping[str, float | None]
    outcome: str
    parts: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def ungraded(self) -> bool:
        """The engine failed on it, or its grading did: it is neither right nor wrong."""
        return self.outcome in FAILURES and None in self.values.values()


def grade(
    tasks: Sequence[Task],
    answers: Sequence[Sequence[Answer]],
    metrics: Mapping[str, MetricSpec],
    *,
    beside: Path | None = None,
    workers: int = 2,
) -> list[list[Graded]]:
    """All answers with their grades, in the same order. An engine's failure is never graded: its values are None."""
    scores = {name: _scores(tasks, answers, metric, beside=beside, workers=workers) for name, metric in metrics.items()}
    first = next(iter(metrics))
    return [
        [
            _graded(task, answer, {name: by_task[row][number] for name, by_task in scores.items()}, first)
            for number, answer in enumerate(given)
        ]
        for row, (task, given) in enumerate(zip(tasks, answers, strict=True))
    ]


def scorer_hash(metric: MetricSpec, beside: Path | None = None) -> str:
    """Hex digest of the reward's file, the files beside it that belong to it, and its options."""
    found = find("rewards", metric.reward, beside=beside)
    text = hashlib.sha256(found.path.read_bytes())
    for own in scorer_files(found.path):
        text.update(own.read_bytes())
    text.update(json.dumps(metric.options, sort_keys=True, default=str).encode())
    return text.hexdigest()[:16]


def scorer_files(path: Path) -> list[Path]:
    """The files of weights that belong to a reward's file: `refusal_weights.json` to `refusal.py`."""
    return sorted(path.parent.glob(f"{path.stem}_*.json"))


def _scores(
    tasks: Sequence[Task], answers: Sequence[Sequence[Answer]], metric: MetricSpec, *, beside: Path | None, workers: int
) -> list[list[Score]]:
    spec = RewardSpec(name=metric.reward, options=metric.options, deadline_s=metric.deadline_s)
    groups = [(task, [answer.rollout(task) for answer in given]) for task, given in zip(tasks, answers, strict=True)]
    with closing(RewardPool([spec], workers=workers, beside=beside)) as pool:
        return asyncio.run(pool.score(groups))


def _graded(task: Task, answer: Answer, scores: Mapping[str, Score], first: str) -> Graded:
    if answer.failed:
        return Graded(task=task, answer=answer, values=dict.fromkeys(scores), outcome="failed")
    values = {name: score.value for name, score in scores.items()}
    parts = {name.partition(".")[2]: part for name, part in scores[first].parts.items() if "." in name}
    return Graded(task=task, answer=answer, values=values, outcome=_outcome(scores[first]), parts=parts)


def _outcome(score: Score) -> str:
    if score.value is None:
        return OUTCOMES.get(score.fault.kind, "unscored") if score.fault else "unscored"
    if score.fault and score.fault.kind in WORTHLESS:
        return WORTHLESS[score.fault.kind]
    return {1.0: "right", 0.0: "wrong"}.get(score.value, "scored")
