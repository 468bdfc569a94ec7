"""Held-out completions, judged by the model in training: whether it puts them in the order that people did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignkit.data.kinds.kind import Kind
from alignkit.run_folder.run_folder import asked
from alignkit.train.loop import StageLoop
from alignkit.types.batch import pack
from alignkit.types.outputs import Outputs

ROWS = 64  # read at a time


@dataclass(frozen=True, kw_only=True)
class OfflineEvaluator:
    """Judges `rows`, the held-out rows of the stage's kind. Every rank must run it."""

    kind: Kind
    rows: Sequence[Any]
    share_prefix: bool

    def run(self, loop: StageLoop) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(one row per held-out row: task_id, asked, correct, reward; summary metrics).

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
        packed = pack(self.kind.items_of(rows), share_prefix=self.share_prefix)
        batch = loop.annotate(packed.validate())
        step = loop.step
        said = {name: step.read(batch, step.forward, name) for name in step.forward.want}
        judge = step.algorithm.judge
        assert judge is not None, "a recipe check sees to it that the algorithm can judge"
        judgement = judge(step.config, Outputs(**said), batch)
        if step.algorithm.lower_is_better:
            judgement = replace(judgement, value=-judgement.value)
        members = [(batch.group == group).nonzero().squeeze(-1).tolist() for group in batch.group.unique().tolist()]
        verdicts = [self.kind.verdict(judgement, batch, each) for each in members]
        return [
            {"task_id": row.task.id, "asked": asked(row.task), "member": 0, "correct": correct, "reward": reward}
            | {"text": "", "stop": "given"}
            for row, (correct, reward) in zip(rows, verdicts, strict=True)
        ]
