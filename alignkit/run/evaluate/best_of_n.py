"""Best of n over a file of completions: what choosing by one reward gives, and what another says of the choice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignkit.data.completion_text import completion_text
from alignkit.data.sources import load_tasks
from alignkit.errors import DataError
from alignkit.evaluate.statistics.best_of_n import Point, curve, fit_gold, overoptimisation
from alignkit.recipe.lookup.find import did_you_mean
from alignkit.recipe.schema import Data, RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.run.lab.lab import Lab, about, digest_of, prompt_key, score_rows
from alignkit.types.score import Score
from alignkit.types.task import Task


@dataclass(frozen=True)
class Samples:
    """Completions of one prompt. gold: known values of them, or None."""

    task: Task
    completions: list[str]
    gold: list[float] | None


@dataclass(frozen=True)
class Pool:
    """The samples of one prompt that have a proxy value (and a gold value, where gold is wanted)."""

    samples: Samples
    places: list[int]
    proxy: list[float]
    gold: list[float] | None


@dataclass
class Tally:
    """What was left out, and why."""

    unscorable: Counter[str] = field(default_factory=Counter)
    prompts: int = 0


def read_samples(source: str, settings: Lab, *, gold_column: str | None) -> list[Samples]:
    """Completions by prompt: rows with a list `completions`, or rows with one `completion` each, joined by prompt.

    gold_column: a number per completion (a list beside `completions`). Raises DataError with the row.
    """
    data = Data(source=source, columns=dict(settings.columns), template=settings.template, limit=settings.limit)
    found: dict[str, Samples] = {}
    for number, task in enumerate(load_tasks(data, seed=settings.seed, beside=Path()), start=1):
        where = f"{source} row {number}"
        texts, gold = _row(task, where, gold_column)
        samples = found.setdefault(prompt_key(task), Samples(task, [], None if gold is None else []))
        samples.completions.extend(texts)
        if samples.gold is not None and gold is not None:
            samples.gold.extend(gold)
    return list(found.values())


def best_of_n(
    proxy: RewardSpec,
    gold: RewardSpec | None,
    samples: Sequence[Samples],
    *,
    source: str,
    settings: Lab,
    sizes: Sequence[int] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(plain values for JSON, the best completion of every prompt by the proxy).

    sizes: values of n; default 1, 2, 4, ... and the number of samples that all prompts have. Prompts with less than
    half of the largest number of scored samples are left out and counted, as are samples without a value.
    """
    tally = Tally()
    proxies = _score(proxy, samples, settings)
    golds = _score(gold, samples, settings) if gold is not None else None
    pools = [_pool(one, proxies[i], None if golds is None else golds[i], tally) for i, one in enumerate(samples)]
    most = max((len(pool.proxy) for pool in pools), default=0)
    kept = [pool for pool in pools if pool.proxy and 2 * len(pool.proxy) >= most]
    tally.prompts = len(pools) - len(kept)
    if not kept:
        raise DataError(f"{source}: no prompt has a completion that could be scored: {dict(tally.unscorable)}")
    fewest = min(len(pool.proxy) for pool in kept)
    sizes = _sizes(fewest, sizes)
    points = curve([(pool.proxy, pool.gold) for pool in kept], sizes, seed=settings.seed)
    specs = [proxy, *([gold] if gold is not None else [])]
    result = {
        **about(specs, source, digest_of(source), len(samples), settings),
        "prompts": len(kept),
        "samples": fewest,
        "left_out": {"prompts": tally.prompts, "samples": dict(sorted(tally.unscorable.items()))},
        "points": [asdict(point) for point in points],
        **_gold_summary(kept, points, settings),
    }
    return result, [_best(pool) for pool in kept]


def _row(task: Task, where: str, gold_column: str | None) -> tuple[list[str], list[float] | None]:
    several = task.columns.get("completions")
    texts = [completion_text(one, where) for one in several] if isinstance(several, list) else None
    texts = texts if texts is not None else [completion_text(task.columns.get("completion"), where)]
    if gold_column is None:
        return texts, None
    if gold_column not in task.columns:
        raise DataError(f"{where}: no column '{gold_column}'{did_you_mean(gold_column, task.columns)}")
    column: Any = task.columns[gold_column]
    values: list[Any] = column if isinstance(column, list) else [column]
    if len(values) != len(texts):
        raise DataError(f"{where}: {len(values)} values in '{gold_column}' for {len(texts)} completions")
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: '{gold_column}' holds something that is no number: {error}") from error
    if not all(math.isfinite(number) for number in numbers):
        raise DataError(f"{where}: '{gold_column}' holds NaN or infinity; wanted numbers")
    return texts, numbers


def _score(spec: RewardSpec, samples: Sequence[Samples], settings: Lab) -> list[list[Score]]:
    tasks = [one.task for one in samples for _ in one.completions]
    texts = [text for one in samples for text in one.completions]
    with closing(RewardPool([spec], workers=settings.workers, beside=Path())) as pool:
        scores = iter(score_rows(pool, tasks, texts))
    return [[next(scores) for _ in one.completions] for one in samples]


def _pool(samples: Samples, proxy: Sequence[Score], gold: Sequence[Score] | None, tally: Tally) -> Pool:
    """The samples with all wanted values."""
    places, values, truths = [], [], []
    for place, score in enumerate(proxy):
        told = gold[place] if gold is not None else None
        lacking = next((one for one in (score, told) if one is not None and one.value is None), None)
        if lacking is not None:
            assert lacking.fault is not None
            tally.unscorable[lacking.fault.kind.value] += 1
            continue
        places.append(place)
        values.append(score.value)
        truths.append(told.value if told is not None else samples.gold[place] if samples.gold is not None else None)
    known = gold is not None or samples.gold is not None
    return Pool(samples, places, values, truths if known else None)


def _sizes(fewest: int, wanted: Sequence[int] | None) -> list[int]:
    if wanted is None:
        return sorted({*(2**power for power in range(fewest.bit_length()) if 2**power <= fewest), fewest})
    too_large = [n for n in wanted if n > fewest or n < 1]
    if too_large:
        raise DataError(f"n = {too_large[0]}: wanted 1 to {fewest}, the completions that every prompt has")
    return sorted(set(wanted))


def _gold_summary(pools: Sequence[Pool], points: Sequence[Point], settings: Lab) -> dict[str, Any]:
    known = [(pool.proxy, pool.gold) for pool in pools if pool.gold is not None]
    if len(known) < 2 or len(points) < 2:
        return {"overoptimisation": None, "fit": None, "sentence": None}
    found = overoptimisation(known, [point.n for point in points], seed=settings.seed)
    fit = fit_gold(points)
    sentence = (
        f"{found.verdict}: gold is highest at n = {found.peak} on half of the prompts; on the other half, going on to "
        f"n = {found.last} changes it by {found.change:+.4g} (95 %: {found.interval.low:+.4g} to "
        f"{found.interval.high:+.4g})"
    )
    return {
        "overoptimisation": {**asdict(found), "verdict": found.verdict},
        "fit": None if fit is None else {"alpha": fit[0], "beta": fit[1]},
        "sentence": sentence,
    }


def _best(pool: Pool) -> dict[str, Any]:
    """The chosen completion (the first of equals) as a row that training and evaluation read."""
    top = max(range(len(pool.proxy)), key=lambda number: pool.proxy[number])
    task = pool.samples.task
    row: dict[str, Any] = {"prompt": task.text if task.messages is None else [dict(m) for m in task.messages]}
    row |= {"completion": pool.samples.completions[pool.places[top]], "score": pool.proxy[top]}
    if task.reference is not None:
        row["reference"] = task.reference
    return row if pool.gold is None else {**row, "gold": pool.gold[top]}
