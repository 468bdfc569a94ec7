"""The reward lab for rewards that say more than one number: distributions against labels, steps against the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, Philox

from alignkit.data.completion_text import completion_text
from alignkit.data.offline.columns import numbers
from alignkit.data.sources import load_tasks
from alignkit.errors import DataError
from alignkit.evaluate.statistics import distributions, first_error
from alignkit.recipe.schema import Data, RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.run.lab.lab import Lab, about, digest_of, score_rows
from alignkit.types.score import Score
from alignkit.types.seeds import child
from alignkit.types.task import Task


def examine_quantiles(
    spec: RewardSpec, source: str, settings: Lab, *, point: RewardSpec | None = None
) -> dict[str, Any]:
    """A distributional reward on rows with a numeric `label`: coverage, crossing, calibration per level, CRPS.

    point: a reward whose value, with normal noise, it is compared with; default its own. The noise's mean and standard
    deviation are those of the errors on a random half of the rows, and both are scored on the other half. Raises
    DataError for rows without a number as label, and where no score holds quantiles.
    """
    tasks, texts = _read(source, settings)
    labels = np.array([_label(task, f"{source} row {number}") for number, task in enumerate(tasks, start=1)])
    scores = _score(spec, tasks, texts, settings)
    others = _score(point, tasks, texts, settings) if point else scores
    kept = [n for n, one in enumerate(scores) if one.value is not None and one.spread and others[n].value is not None]
    if len(kept) < 4:
        raise DataError(f"{source}: {len(kept)} of {len(tasks)} rows got quantiles from {spec.name}; wanted at least 4")
    quantiles = np.array([scores[n].spread for n in kept])
    points, truth = np.array([others[n].value for n in kept], dtype=np.float64), labels[kept]
    at = distributions.levels(quantiles.shape[1])
    below = distributions.below(quantiles, truth)
    return {
        **about([spec, *([point] if point else [])], source, digest_of(source), len(tasks), settings),
        "scored": len(kept),
        "unscorable": _faults(scores),
        "levels": len(at),
        "coverage": {f"{s:.0%}": distributions.coverage(quantiles, truth, s) for s in distributions.SHARES},
        "crossing_rate": distributions.crossing_rate(quantiles),
        "calibration": [{"level": float(a), "below": float(b)} for a, b in zip(at, below, strict=True)],
        "calibration_error": float(np.abs(below - at).mean()),
        **_against_point(quantiles, points, truth, settings.seed),
    }


def examine_steps(spec: RewardSpec, source: str, settings: Lab) -> dict[str, Any]:
    """A process reward on rows with `steps` and `labels` (at least 1/2 is right): area, first-error F1, F1 of steps.

    A step's score is the lowest of those that the reward gives to steps ending within it. Where settings.threshold is
    None, the one with the best first-error F1 on a random half of the solutions is measured on the other half.
    """
    tasks, steps, right = _read_steps(source, settings)
    scores = _score(spec, tasks, ["".join(one) for one in steps], settings)
    found = [_step_values(score, one) for score, one in zip(scores, steps, strict=True)]
    kept = [number for number, values in enumerate(found) if values is not None]
    if len(kept) < 4:
        raise DataError(f"{source}: {len(kept)} of {len(tasks)} solutions got a score for every step from {spec.name}")
    values, truth = [v for v in found if v is not None], [right[number] for number in kept]
    threshold, how, measured = settings.threshold, "given", list(range(len(kept)))
    if threshold is None:
        chosen, measured = _halves(len(kept), settings.seed)
        firsts = [first_error.first_wrong(truth[n]) for n in chosen]
        threshold = first_error.best_first_error_threshold([values[n] for n in chosen], firsts)
        how = "best on a random half of the solutions; measured on the other"
    held, facts = [values[n] for n in measured], [truth[n] for n in measured]
    told = first_error.first_error(
        [first_error.first_below(one, threshold) for one in held],
        [first_error.first_wrong(one) for one in facts],
        seed=settings.seed,
    )
    return {
        **about([spec], source, digest_of(source), len(tasks), settings),
        "scored": len(kept),
        "unscorable": _faults(scores),
        "steps": sum(map(len, values)),
        "wrong_steps": sum(not fine for one in truth for fine in one),
        "auc": first_error.step_auc(values, truth, seed=settings.seed),
        "threshold": {"value": threshold, "how": how, "solutions": len(measured)},
        "first_error": asdict(told),
        "step_f1": first_error.step_f1(held, facts, threshold),
    }


def _against_point(quantiles: np.ndarray, points: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, Any]:
    fit, measured = _halves(len(labels), seed)
    errors = labels[fit] - points[fit]
    shift, spread = float(errors.mean()), float(errors.std())
    own = distributions.crps(quantiles[measured], labels[measured])
    plain = distributions.crps_gaussian(points[measured] + shift, spread, labels[measured])
    return {
        "crps": distributions.mean_score(own, seed=seed),
        "crps_point": {**distributions.mean_score(plain, seed=seed), "noise": {"mean": shift, "std": spread}},
        "crps_difference": distributions.mean_score(own - plain, seed=seed),
    }


def _read(source: str, settings: Lab) -> tuple[list[Task], list[str]]:
    tasks = _tasks(source, settings)
    texts = [
        completion_text(task.columns.get("completion"), f"{source} row {number}")
        for number, task in enumerate(tasks, start=1)
    ]
    return tasks, texts


def _read_steps(source: str, settings: Lab) -> tuple[list[Task], list[list[str]], list[list[bool]]]:
    tasks, steps, right = _tasks(source, settings), [], []
    for number, task in enumerate(tasks, start=1):
        texts, labels = task.columns.get("steps"), task.columns.get("labels")
        fits = isinstance(texts, list) and isinstance(labels, list) and len(texts) == len(labels) > 0
        if not fits or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"{source} row {number}: wanted a list `steps` of texts and a list `labels` of as many numbers"
            )
        known = numbers({str(place): label for place, label in enumerate(labels)})
        if len(known) < len(labels):
            raise DataError(f"{source} row {number}: a label is no number; wanted 0 to 1, true or false")
        steps.append(texts)
        right.append([value >= 0.5 for value in known.values()])
    return tasks, steps, right


def _tasks(source: str, settings: Lab) -> list[Task]:
    data = Data(source=source, columns=dict(settings.columns), template=settings.template, limit=settings.limit)
    return load_tasks(data, seed=settings.seed, beside=Path())


def _label(task: Task, where: str) -> float:
    found = numbers({"label": task.columns.get("label")})
    if "label" not in found:
        raise DataError(f"{where}: no number in column 'label'; name yours with --column label=THEIRS")
    return found["label"]


def _score(spec: RewardSpec, tasks: Sequence[Task], texts: Sequence[str], settings: Lab) -> list[Score]:
    with closing(RewardPool([spec], workers=settings.workers, beside=Path())) as pool:
        return score_rows(pool, tasks, texts)


def _step_values(score: Score, steps: Sequence[str]) -> list[float] | None:
    """One value per step; None unless each has one."""
    if score.value is None or score.steps is None:
        return None
    ends = list(accumulate(map(len, steps)))
    starts = [0, *ends[:-1]]
    own = [[s.value for s in score.steps if low < s.end <= high] for low, high in zip(starts, ends, strict=True)]
    return [min(values) for values in own] if all(own) else None


def _halves(count: int, seed: int) -> tuple[list[int], list[int]]:
    order = [int(place) for place in Generator(Philox(key=child(seed, "halves"))).permutation(count)]
    return sorted(order[: count // 2]), sorted(order[count // 2 :])


def _faults(scores: Sequence[Score]) -> dict[str, int]:
    return dict(sorted(Counter(one.fault.kind.value for one in scores if one.value is None and one.fault).items()))
