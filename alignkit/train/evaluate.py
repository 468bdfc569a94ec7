"""Held-out tasks, answered by the same engine and judged by the same rewards as in training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignkit.data.offline.example import Example
from alignkit.recipe.schema import Evaluation, RewardSpec
from alignkit.rewards.pool.blend import is_for
from alignkit.rollout.collect import Collector
from alignkit.rollout.play import Prompt
from alignkit.run_folder.run_folder import asked
from alignkit.types.rollout import Rollout
from alignkit.types.task import Task


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Answers `examples` with `settings.samples` completions each.

    grader: names the reward that decides whether answers to a task are correct. graders: all rewards in the order in
    which they take the place of one that abstains. sources: of a mixture, each of which gets an accuracy of its own.
    """

    collector: Collector
    examples: Sequence[Example]
    settings: Evaluation
    grader: Callable[[Task], str | None]
    graders: Sequence[str] = ()
    sources: Sequence[str] = ()

    def run(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(one row per answer: task_id, asked, correct, reward, text, stop; summary metrics).

        Unscorable: correct is None.
        """
        sampling = {
            "group": self.settings.samples,
            "temperature": self.settings.temperature,
            "max_new_tokens": self.settings.max_new_tokens or self.collector.settings.max_new_tokens,
        }
        settings = self.collector.settings.model_copy(update=sampling)
        collector = replace(self.collector, settings=settings)
        # negative positions: training counts from 0, so no sample of an evaluation shares its randomness
        prompts = [
            Prompt(task=e.task, ids=e.prompt, position=-1 - i, opened=e.opened) for i, e in enumerate(self.examples)
        ]
        rollouts = [rollout for group in asyncio.run(_scored(collector, prompts)) for rollout in group]
        rows = [self._row(rollout) for rollout in rollouts]
        correct = [row["correct"] for row in rows]
        summary = {
            "eval/accuracy": _mean(correct),
            **self._by_source(rollouts, correct),
            "eval/tasks": len(self.examples),
            "eval/truncated_frac": sum(rollout.truncated for rollout in rollouts) / len(rollouts),
            "eval/unscorable_frac": correct.count(None) / len(rows),
            "eval/reward_mean": _mean([row["reward"] for row in rows]),
            "eval/length_mean": sum(rollout.sampled_tokens for rollout in rollouts) / len(rollouts),
        }
        return rows, summary

    def _by_source(self, rollouts: Sequence[Rollout], correct: Sequence[float | None]) -> dict[str, float | None]:
        values: dict[str, list[float | None]] = {name: [] for name in self.sources}
        for rollout, value in zip(rollouts, correct, strict=True):
            values.get(rollout.task.columns.get("source", ""), []).append(value)
        return {f"eval/accuracy/{name}": _mean(own) for name, own in values.items()}

    def _row(self, rollout: Rollout) -> dict[str, Any]:
        grader = self.grader(rollout.task)
        parts = rollout.score.parts if rollout.score else {}
        value = parts.get(grader) if grader else None
        if parts.get(f"{grader}.abstained"):
            value = next((told for name in self.graders if (told := parts.get(name)) is not None), None)
        return {
            "task_id": rollout.task.id,
            "asked": asked(rollout.task),
            "member": rollout.member,
            "correct": value,
            "reward": rollout.reward,
            "text": rollout.conversation,
            "stop": str(rollout.end or rollout.turns[-1].stop),
        }


async def _scored(collector: Collector, prompts: list[Prompt]) -> list[list[Rollout]]:
    return await collector.score(await collector.sample(prompts))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def grader_of(rewards: Sequence[RewardSpec], names: Sequence[str], task: Task) -> str | None:
    """The part that decides correctness: the first reward for this row that is not a gate, else the first gate."""
    judging = [(spec.gate, name) for name, spec in zip(names, rewards, strict=True) if is_for(spec, task)]
    return min(judging, key=lambda each: each[0])[1] if judging else None
