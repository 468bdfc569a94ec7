"""Scores rollouts in processes that can be killed: a hang, a crash or a NaN costs one score and never the run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import copy
from pathlib import Path

from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.blend import check_blend, combine, part_names
from alignkit.rewards.shape import Group, is_for
from alignkit.rewards.supervisor import Call, Job, Supervisor
from alignkit.types.rollout import Rollout
from alignkit.types.score import Score
from alignkit.types.task import Task


class RewardPool:
    """Runs the rewards of a stage in `workers` processes and blends their scores.

    specs: the rewards, weights and deadlines. beside: the recipe's folder, where `./file.py:name` is looked up.
    Raises RewardError at once when a reward does not exist, does not take its options, or fails while it is imported.

    A reward that scores one rollout at a time is killed after `deadline_s` seconds on one rollout, and only that
    rollout loses its score. A reward that scores whole groups (a Reward object, a TRL function) has
    `deadline_s * len(group)` seconds, and the group shares its fate. Scores do not depend on the number of workers.
    """

    def __init__(self, specs: Sequence[RewardSpec], *, workers: int, beside: Path | None = None):
        check_blend(specs)
        self._specs = tuple(specs)
        self._names = part_names(specs)
        named = [(spec.name, dict(spec.options)) for spec in specs]
        self._supervisor = Supervisor(named, workers=workers, beside=beside)
        self._per_rollout = self._supervisor.ready.result()

    @property
    def per_rollout(self) -> bool:
        """Whether every reward scores rollouts one at a time, so that a score depends on its own rollout only."""
        return all(self._per_rollout)

    async def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """One Score per rollout, in order; `groups` are (task, its rollouts). Failures are Faults, never raised.

        Raises RewardError only when the pool itself is closed or cannot start workers any more.
        """
        call = Call()
        asked = [[self._ask(call, number, *group) for number in range(len(self._specs))] for group in groups]
        if call.jobs:
            self._supervisor.submit(call)
            await asyncio.wrap_future(call.future)
        said = [[[score for job in jobs for score in job.scores] for jobs in group] for group in asked]
        return combine(self._specs, groups, said)

    def close(self) -> None:
        """Ends every worker process. May be called twice; a call in progress gets RewardError."""
        self._supervisor.close()

    def unnormalised(self) -> RewardPool:
        """The same pool, which must be closed but once, scoring as in evaluation: without `normalise`."""
        twin = copy(self)
        twin._specs = tuple(spec.model_copy(update={"normalise": None}) for spec in self._specs)
        return twin

    def _ask(self, call: Call, number: int, task: Task, rollouts: Sequence[Rollout]) -> list[Job]:
        """Adds the jobs of one reward on one group to the call, none where it is not for the row."""
        spec, name, size = self._specs[number], self._names[number], 1 if self._per_rollout[number] else len(rollouts)
        jobs = []
        for first in range(0, len(rollouts) if is_for(spec, task) else 0, size or 1):
            own = list(rollouts[first : first + size])
            deadline_s = spec.deadline_s * len(own)
            jobs.append(Job(call=call, reward=number, name=name, task=task, rollouts=own, deadline_s=deadline_s))
            call.add(jobs[-1])
        return jobs
