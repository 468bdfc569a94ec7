"""Whether a reward prefers the answer that people preferred: pair accuracy, also among pairs of like length."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from alignkit.errors import DataError
from alignkit.evaluate.benchmark.answers import Answer
from alignkit.evaluate.benchmark.grade import Graded
from alignkit.evaluate.benchmark.metrics import Number, absent, mean_of
from alignkit.evaluate.statistics.separation import calibration
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.types.rollout import Rollout
from alignkit.types.score import Score
from alignkit.types.task import Task

BLOCK = 64  # pairs of one call
LIKE = 0.1  # lengths that differ by at most this share of the longer are alike
CALIBRATION = "margin_calibration_error"
METRICS = ("pair_accuracy", "length_matched_accuracy", "longer_wins")


def grade_pairs(
    tasks: Sequence[Task], reward: RewardSpec, *, beside: Path | None, workers: int, report: Callable[[int], None]
) -> list[list[Graded]]:
    """One grade per pair, in order: 1 when the reward scores `columns.chosen` above `columns.rejected`, 1/2 for a tie.

    values: METRICS; length_matched_accuracy is None for pairs of unlike length; longer_wins is what a reward that only
    counts characters would get. A pair of which one side cannot be scored has no values.
    """
    graded = []
    with closing(RewardPool([reward], workers=workers, beside=beside)) as pool:
        for start in range(0, len(tasks), BLOCK):
            block = tasks[start : start + BLOCK]
            scores = asyncio.run(pool.score([(task, _sides(task)) for task in block]))
            graded += [[_graded(task, *pair)] for task, pair in zip(block, scores, strict=True)]
            report(len(block))
    return graded


def pair_metrics(graded: Sequence[Sequence[Graded]]) -> dict[str, Number]:
    """The mean of each of METRICS with its 95 % interval, and CALIBRATION."""
    means = {
        name: mean_of([[value for one in given if (value := one.values[name]) is not None] for given in graded])
        for name in METRICS
    }
    return means | {CALIBRATION: margin_calibration([one for given in graded for one in given])}


def margin_calibration(graded: Sequence[Graded]) -> Number:
    """Whether a margin of m means what Bradley-Terry says, to be right with chance sigmoid(m): the expected error.

    Over ten bins of pairs by |margin|: the mean gap between sigmoid(|margin|) and the share of pairs in which the
    preferred answer scored higher. With `brier` and the `bins`. Ties are left out.
    """
    margins = [one.parts["margin"] for one in graded if one.outcome in ("right", "wrong")]
    sure = [1 / (1 + math.exp(-min(abs(margin), 500.0))) for margin in margins if margin is not None]
    if not sure:
        return absent("the reward told no pair's answers apart")
    found = calibration(sure, [one.outcome == "right" for one in graded if one.outcome in ("right", "wrong")])
    more = {"brier": found.brier, "bins": [asdict(one) for one in found.bins]}
    return {"value": found.error, "low": None, "high": None, "n": len(sure), "unit": "share", **more}


def _sides(task: Task) -> list[Rollout]:
    texts = [task.columns.get("chosen"), task.columns.get("rejected")]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"task {task.id}: `columns.chosen` and `columns.rejected` must be texts")
    return [_answer(task, number, str(text)).rollout(task) for number, text in enumerate(texts)]


def _graded(task: Task, chosen: Score, rejected: Score) -> Graded:
    answer = _answer(task, 0, str(task.columns["chosen"]))
    if chosen.value is None or rejected.value is None:
        return Graded(task=task, answer=answer, values=dict.fromkeys(METRICS), outcome="unscored")
    lengths = [len(str(task.columns[side])) for side in ("chosen", "rejected")]
    alike = abs(lengths[0] - lengths[1]) <= LIKE * max(lengths)
    won = _won(chosen.value, rejected.value)
    values = {"pair_accuracy": won, "length_matched_accuracy": won if alike else None, "longer_wins": _won(*lengths)}
    parts = {"chosen": chosen.value, "rejected": rejected.value, "margin": chosen.value - rejected.value}
    outcome = {1.0: "right", 0.0: "wrong"}.get(won, "tie")
    return Graded(task=task, answer=answer, values=values, outcome=outcome, parts=parts)


def _won(first: float, second: float) -> float:
    return 0.5 if first == second else float(first > second)


def _answer(task: Task, number: int, text: str) -> Answer:
    return Answer(task_id=task.id, sample=number, token_ids=(), text=text, stop="given")
