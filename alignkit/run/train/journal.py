"""Everything a finished step leaves behind: the folder's files, the terminal, the tracker."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.errors import StorageError
from alignkit.parallel.group import Group
from alignkit.report.terminal import Display, pick_samples
from alignkit.report.tracker import TABLE_ROWS, Tracker
from alignkit.run.train.turn_values import turn_values
from alignkit.run_folder.light import Light
from alignkit.run_folder.run_folder import RunFolder, conversation, prompt_text
from alignkit.train.source import Drawn
from alignkit.types.batch import Batch
from alignkit.types.rollout import Rollout

OF = "eval/accuracy/"  # of one source of a mixture


@dataclass(kw_only=True)
class Journal:
    """Writes for the first rank; the others hold one that writes nothing. table_every: steps between the tracker's
    tables of completions; None: it gets none."""

    folder: RunFolder
    group: Group
    display: Display | None = None
    tracker: Tracker | None = None
    table_every: int | None = None

    def report(self, message: str) -> None:
        """One sentence for the person who watches and for events.jsonl."""
        if self.group.first:
            if self.display:
                self.display.message(message)
            self.note("message", text=message)

    def note(self, kind: str, **fields: Any) -> None:
        """An event that no run ends for: where there is no room for it, it is lost and the display says so."""
        try:
            self.folder.event(kind, **fields)
        except StorageError as error:
            if self.display:
                self.display.message(str(error))

    def step(
        self,
        step: int,
        stage: str,
        drawn: Drawn,
        trained: Batch | None,
        metrics: dict[str, Any],
        lights: Sequence[Light],
    ) -> None:
        """Records one finished step. trained: the batch that it updated on."""
        if not self.group.first:
            return
        metrics = {**metrics, "memory/peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
        self.folder.consumed(step, drawn.consumed, stage=stage)
        advantages, turns = _advantages(drawn, trained), turn_values(drawn, trained)
        if drawn.rollouts:
            self.folder.rollouts(step, drawn.rollouts, stage=stage, advantages=advantages, turn_values=turns)
        self.folder.lights(step, lights, stage=stage)
        self.folder.metrics(step, metrics, stage=stage)
        samples = pick_samples(drawn.rollouts) if drawn.rollouts else []
        if self.display:
            of = {id(rollout): turns.get(index, ()) for index, rollout in enumerate(drawn.rollouts)}
            told = [conversation(rollout, of[id(rollout)]) if rollout.end else [] for rollout in samples]
            self.display.step({"stage": stage, "step": step, **metrics}, samples, lights, told)
        self._track(lambda tracker: tracker.log(step, metrics))
        if drawn.rollouts and self.table_every and step % self.table_every == 0:
            known = dict(zip(map(id, drawn.rollouts), advantages, strict=True))
            rows = [_shown(step, one, known[id(one)]) for one in pick_samples(drawn.rollouts, TABLE_ROWS)]
            self._track(lambda tracker: tracker.table(step, rows))

    def evaluation(self, step: int, stage: str, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        """Records an evaluation of the weights after `step` steps."""
        more = {name.removeprefix("eval/"): value for name, value in summary.items() if name != "eval/accuracy"}
        self.folder.evaluation(step, rows, stage=stage, **more)
        self._track(lambda tracker: tracker.log(step, summary))
        accuracy = summary["eval/accuracy"]
        shown = "no answer could be scored" if accuracy is None else f"accuracy {accuracy:.3f}"
        of = [(name.removeprefix(OF), value) for name, value in summary.items() if name.startswith(OF)]
        if parts := ", ".join(f"{name} {value:.3f}" for name, value in of if value is not None):
            shown += f" ({parts})"
        if (reward := summary["eval/reward_mean"]) not in (accuracy, None):
            shown += f", mean reward {reward:.3f}"
        self.report(f"evaluation after {step} steps: {shown} on {summary['eval/tasks']} held-out tasks")

    def _track(self, tell: Callable[[Tracker], None]) -> None:
        """A tracker is a second copy: one that the disk or the network refuses is given up, and the run goes on."""
        if self.tracker is None:
            return
        try:
            tell(self.tracker)
        except OSError as error:
            self.tracker = None
            self.report(f"the tracker is given up, metrics.jsonl has everything: {error}")


def _shown(step: int, rollout: Rollout, advantage: float | None) -> dict[str, Any]:
    """One row of the tracker's table of completions."""
    return {
        "step": step,
        "task": rollout.task.id,
        "reward": rollout.reward,
        "parts": rollout.score.parts if rollout.score else {},
        "advantage": advantage,
        "stop": str(rollout.end or rollout.turns[-1].stop),
        "prompt": prompt_text(rollout.task),
        "completion": rollout.conversation,
    }


def _advantages(drawn: Drawn, batch: Batch | None) -> list[float | None]:
    """One advantage per rollout (the mean over its tokens); None for rollouts that were not trained on."""
    if batch is None or batch.advantages is None:
        return [None] * len(drawn.rollouts)
    means = (batch.sum_per_sequence(batch.advantages) / batch.actions_per_sequence()).tolist()
    trained = {(rollout.group, rollout.member) for rollout in drawn.trained}  # none where past turns are trained on
    places = zip(batch.group.tolist(), batch.member.tolist(), strict=True)
    known = {place: mean for place, mean in zip(places, means, strict=True) if place in trained}
    return [known.get((rollout.group, rollout.member)) for rollout in drawn.rollouts]
