"""Held-out completions, judged by the model in training: whether it puts them in the order that people did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from torch import Tensor

from alignkit.train.loop import StageLoop
from alignkit.types.batch import Batch, Item, pack
from alignkit.types.outputs import Judgement, Outputs

ROWS = 64  # read at a time
PAIRS = ("pairs", "duels")


@dataclass(frozen=True, kw_only=True)
class GivenEvaluator:
    """Judges `rows`, the held-out rows of the stage's kind; items: what a row becomes. Every rank must run it."""

    rows: Sequence[Any]
    items: Callable[[Any, int], list[Item]]
    share_prefix: bool

    def run(self, loop: StageLoop) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(one row per held-out row: task_id, correct, reward; summary metrics).

        correct: the share of comparisons that the model decides as the data does, ties half; None without any. reward:
        mean score of the row's completions, of a pair the chosen's lead; of a cost the negative.
        """
        rows = [row for first in range(0, len(self.rows), ROWS) for row in self._judge(loop, first)]
        known = [row["correct"] for row in rows if row["correct"] is not None]
        summary = {
            "eval/accuracy": sum(known) / len(known) if known else None,
            "eval/tasks": len(rows),
            "eval/unscorable_frac": 1 - len(known) / len(rows),
            "eval/reward_mean": sum(row["reward"] for row in rows) / len(rows),
        }
        return rows, summary

    def _judge(self, loop: StageLoop, first: int) -> list[dict[str, Any]]:
        rows = self.rows[first : first + ROWS]
        packed = pack(
            [item for group, row in enumerate(rows) for item in self.items(row, group)], share_prefix=self.share_prefix
        )
        batch = loop.annotate(packed.validate())
        step = loop.step
        said = {name: step.read(batch, step.forward, name) for name in step.forward.want}
        judge = step.algorithm.judge
        assert judge is not None, "a recipe check sees to it that the algorithm can judge"
        judgement = judge(step.config, Outputs(**said), batch)
        if step.algorithm.lower_is_better:
            judgement = replace(judgement, value=-judgement.value)
        verdicts = list(_verdicts(step.algorithm.source, judgement, batch))
        return [
            {"task_id": row.task.id, "member": 0, "correct": correct, "reward": reward, "text": "", "stop": "given"}
            for row, (correct, reward) in zip(rows, verdicts, strict=True)
        ]


def _verdicts(source: str, judgement: Judgement, batch: Batch) -> Iterator[tuple[float | None, float]]:
    """(share of right comparisons, reward) of each group of the batch."""
    value = judgement.value.tolist()
    for group in batch.group.unique().tolist():
        members = (batch.group == group).nonzero().squeeze(-1).tolist()
        mean = sum(value[member] for member in members) / len(members)
        if source == "steps":
            yield _steps(judgement, batch, members[0]), mean
        elif source == "rated":
            yield _ratings(judgement, batch, members[0]), mean
        else:
            truth = (batch.side if source in PAIRS else batch.reward).tolist()
            better = [(a, b) for a, b in permutations(members, 2) if truth[a] > truth[b]]
            lead = value[better[0][0]] - value[better[0][1]] if source in PAIRS else mean
            yield _share([_order(value[a] - value[b]) for a, b in better]), lead


def _steps(judgement: Judgement, batch: Batch, sequence: int) -> float | None:
    """Share of steps on the right side of one half."""
    assert judgement.steps is not None, "a model of steps says their values"
    assert batch.rewards is not None, "the data has labels of steps"
    ends = (batch.segment == sequence) & batch.action_mask
    right = (judgement.steps[ends] > 0.5) == (batch.rewards[ends] > 0.5)
    return _share(right.float().tolist())


def _ratings(judgement: Judgement, batch: Batch, sequence: int) -> float | None:
    """Over the objectives: is this answer on the right side of the next one that was rated otherwise?"""
    orders = []
    for name, said in (judgement.parts or {"": judgement.value}).items():
        truth = batch.channels.get(name or next(iter(batch.channels)))
        other = None if truth is None else _next_unlike(truth, sequence)
        if truth is not None and other is not None:
            sign = 1.0 if truth[sequence] > truth[other] else -1.0
            orders.append(_order(sign * float(said[sequence] - said[other])))
    return _share(orders)


def _next_unlike(truth: Tensor, sequence: int) -> int | None:
    """The next answer of the batch, around its end, whose rating is known and another; None when there is none."""
    numbers = truth.tolist()
    if numbers[sequence] != numbers[sequence]:
        return None
    places = [*range(sequence + 1, len(numbers)), *range(sequence)]
    return next((at for at in places if abs(numbers[at] - numbers[sequence]) > 0), None)


def _order(lead: float) -> float:
    return 0.5 if lead == 0 else float(lead > 0)


def _share(right: list[float]) -> float | None:
    return sum(right) / len(right) if right else None
