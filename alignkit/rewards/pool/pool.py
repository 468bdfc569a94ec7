"""Scores rollouts in processes that can be killed: a hang, a crash or a NaN costs one score and never the run."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

from alignkit.errors import RewardError
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.blend import Blend, check_blend, is_for
from alignkit.rewards.pool.shape import RolloutGroup
from alignkit.rewards.pool.supervisor import Call, ScoringJob, Supervisor
from alignkit.rewards.pool.supervisors import supervisors_of
from alignkit.rewards.pool.training import Training
from alignkit.types.rollout import Rollout
from alignkit.types.score import Score
from alignkit.types.task import Task


class RewardPool:
    """Runs the rewards of a stage in `workers` processes, and those that hold a model in one more; blends their scores.

    specs: the rewards, weights and deadlines. beside: the recipe's folder, where `./file.py:name` is looked up.
    training: what TRL functions are told about the run and its data; nothing outside of one.
    Raises RewardError at once when a reward does not exist, does not take its options, or fails while it is imported.

    A reward that scores one rollout at a time is killed after `deadline_s` seconds on one rollout, and only that
    rollout loses its score. A reward that scores whole groups (a Reward object, a TRL function) has
    `deadline_s * len(group)` seconds, and the group shares its fate. A reward that ends what it does by itself, and
    says when, is given that time. Scores do not depend on the number of workers.
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        *,
        workers: int,
        beside: Path | None = None,
        training: Training | None = None,
    ):
        check_blend(specs)
        self._specs = tuple(specs)
        self._blend = Blend(specs)
        self._training = training
        self._scored_by = supervisors_of(specs, workers, beside)
        try:
            ready = {supervisor: supervisor.ready.result() for supervisor, _ in self._scored_by}
        except RewardError:
            self.close()
            raise
        described = [ready[supervisor][number] for supervisor, number in self._scored_by]
        self._per_rollout = [one["per_rollout"] for one in described]
        self._longest_s = [one["longest_s"] for one in described]
        self.trl_columns: list[list[str] | None] = [one["columns"] for one in described]
        """Per reward the columns that it must have when it is a TRL function, else None."""

    @property
    def per_rollout(self) -> bool:
        """Whether every reward scores rollouts one at a time, so that a score depends on its own rollout only."""
        return all(self._per_rollout)

    async def score(self, groups: Sequence[RolloutGroup]) -> list[list[Score]]:
        """One Score per rollout, in order; `groups` are (task, its rollouts). Failures are Faults, never raised.

        Raises RewardError only when the pool itself is closed or cannot start workers any more.
        """
        return self._blend.scores(groups, await self.said(groups))

    async def said(self, groups: Sequence[RolloutGroup], of: Container[int] | None = None) -> list[list[list[Score]]]:
        """By group and reward what the reward itself says of each completion; nothing where it is not for the row.

        of: numbers of the rewards to ask, by default all. Raises RewardError as `score` does.
        """
        calls = {supervisor: Call() for supervisor, _ in self._scored_by}
        asked = [
            [self._ask(calls, i, *group) if of is None or i in of else [] for i in range(len(self._specs))]
            for group in groups
        ]
        waiting = []
        for supervisor, call in calls.items():
            if call.jobs:
                supervisor.submit(call)
                waiting.append(asyncio.wrap_future(call.future))
        await asyncio.gather(*waiting)
        return [[[score for job in jobs for score in job.scores] for jobs in group] for group in asked]

    def close(self) -> None:
        """Ends every worker process. May be called twice; a call in progress gets RewardError."""
        for supervisor in {supervisor for supervisor, _ in self._scored_by}:
            supervisor.close()

    def unnormalised(self) -> RewardPool:
        """The same pool, which must be closed but once, scoring as in evaluation: without `normalise`."""
        twin = copy(self)
        twin._blend = Blend([spec.model_copy(update={"normalise": None}) for spec in self._specs])
        return twin

    def _ask(
        self, calls: Mapping[Supervisor, Call], number: int, task: Task, rollouts: Sequence[Rollout]
    ) -> list[ScoringJob]:
        """Adds the jobs of one reward on one group to its supervisor's call, none where it is not for the row."""
        spec, name = self._specs[number], self._blend.names[number]
        size = 1 if self._per_rollout[number] else len(rollouts)
        if not is_for(spec, task):
            return []
        state = None
        if self._training and rollouts and self.trl_columns[number] is not None:
            state = self._training.trainer_state(rollouts[0].policy_version)
            task = replace(task, columns=self._training.fill(task.columns))
        supervisor, place = self._scored_by[number]
        call, jobs = calls[supervisor], []
        for first in range(0, len(rollouts), size or 1):
            own = list(rollouts[first : first + size])
            jobs.append(
                ScoringJob(
                    call=call,
                    reward=place,
                    name=name,
                    task=task,
                    rollouts=own,
                    deadline_s=max(spec.deadline_s, self._longest_s[number]) * len(own),
                    state=state,
                )
            )
            call.add(jobs[-1])
        return jobs
