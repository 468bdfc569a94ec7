"""What TRL reward functions will fail on in training: a column that no row has, completions in the other form."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from alignkit.recipe.lookup.find import did_you_mean, find
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.blend import is_for, part_names
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.pool.training import Training
from alignkit.rewards.serve.wire import text_rollouts
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

PROBED_ROWS = 8
MADE_UP = "The answer is 1."
AT_FAULT = (FaultKind.CRASH, FaultKind.CONTRACT)


def trl_problems(
    specs: Sequence[RewardSpec], tasks: Sequence[Task], *, beside: Path | None, training: Training
) -> list[str]:
    """One sentence for each TRL function among the rewards that cannot work on these tasks.

    Required columns are looked for in all rows that the reward is for; then it scores a made-up answer to a few of
    them, and is named when it fails on each that it does not leave to others. Raises RewardError when a reward
    cannot be loaded at all.
    """
    if not any(_may_be_trl(spec, beside) for spec in specs):
        return []
    with closing(RewardPool(specs, workers=1, beside=beside, training=training)) as pool:
        sample = {i: _sample(specs[i], tasks) for i, asked in enumerate(pool.trl_columns) if asked is not None}
        lacking = {i: _lacking(i, specs[i], pool.trl_columns[i] or [], tasks) for i in sample}
        probed = list({task.id: task for rows in sample.values() for task in rows}.values())
        groups = [(task, text_rollouts(task, [_answer(task)])) for task in probed]
        said = asyncio.run(pool.said(groups, of=sample))
    problems = []
    for i, name in enumerate(part_names(specs)):
        if i not in sample:
            continue
        scores = [score for by_reward in said for score in by_reward[i]]
        problems += lacking[i] or _failing(i, name, scores, plain=any(task.text is not None for task in probed))
    return problems


def _may_be_trl(spec: RewardSpec, beside: Path | None) -> bool:
    """No shipped reward is one, so that their processes need not start."""
    return find("rewards", spec.name, beside=beside).origin != "shelf"


def _sample(spec: RewardSpec, tasks: Sequence[Task]) -> list[Task]:
    """Some of the rows that the reward is for, spread over the data, because those of one task often lie together."""
    own = [task for task in tasks if is_for(spec, task)]
    return [own[place * len(own) // PROBED_ROWS] for place in range(PROBED_ROWS)] if len(own) > PROBED_ROWS else own


def _lacking(number: int, spec: RewardSpec, required: Sequence[str], tasks: Sequence[Task]) -> list[str]:
    own = [task for task in tasks if is_for(spec, task)]
    columns = sorted({name for task in own for name in task.columns})
    return [
        f"rewards.{number} '{spec.name}': needs the column '{name}', which no row has{did_you_mean(name, columns)}; "
        f"they have {', '.join(columns) or 'none'}; rename one with data.columns ({name}: THEIRS) or make it an option"
        for name in (required if own else ())
        if name not in columns
    ]


def _failing(number: int, name: str, scores: Sequence[Score], *, plain: bool) -> list[str]:
    judged = [score for score in scores if not (score.fault and score.fault.kind is FaultKind.ABSTAINED)]
    faults = [score.fault for score in judged if score.fault and score.fault.kind in AT_FAULT]
    if not faults or len(faults) < len(judged):
        return []
    form = (
        "; data.chat is false, so each completion is a string, and completion[0]['content'] is for conversations: set "
        "data.chat to true, or read the string"
        if plain
        else ""
    )
    told = f"{faults[0].kind.value}: {faults[0].message}"
    return [f"rewards.{number} '{name}': failed on made-up answers to each of {len(judged)} rows: {told}{form}"]


def _answer(task: Task) -> str:
    return task.reference if isinstance(task.reference, str) and task.reference else MADE_UP
