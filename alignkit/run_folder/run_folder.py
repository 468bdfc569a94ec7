"""The run folder: everything a run leaves behind, on the disk before the next step. See docs/run-folder.md."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alignkit.errors import DataError
from alignkit.run_folder import json_lines
from alignkit.run_folder.cut import cut_files, cut_lines
from alignkit.run_folder.light import Light
from alignkit.run_folder.names import check_names
from alignkit.run_folder.turn_value import TurnValue
from alignkit.run_folder.versions import installed
from alignkit.types.files import make_folder, write_atomically
from alignkit.types.rollout import Rollout, Turn
from alignkit.types.score import Fault
from alignkit.types.task import Task, message_text

RECIPE = "recipe.resolved.json"
"""The file with every setting of the run."""
COLUMNS = {
    "stage": "string",
    "step": "int64",
    "task_id": "string",
    "group": "int64",
    "member": "int64",
    "prompt": "string",
    "completion": "string",
    "turns": "string",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "stop": "string",
    "reward": "float64",
    "parts": "string",
    "fault": "string",
    "policy_version": "int64",
    "adapter": "string",
    "advantage": "float64",
}
"""Columns of rollouts/*.parquet -> arrow type. turns (JSON, environments only), reward, parts, fault, adapter and
advantage may be null."""


class RunFolder:
    """Writes one run's folder; only the first rank holds one. `clock` gives Unix seconds (tests pass their own)."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time):
        self.path = Path(path)
        self.clock = clock
        self._last_step: int | None = None
        for name in ("rollouts", "evaluations", "checkpoints"):
            make_folder(self.path / name)

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def ledger_file(self) -> Path:
        return self.path / "ledger.jsonl"

    def recipe(self, resolved: Mapping[str, Any]) -> None:
        """Writes recipe.resolved.json: every setting with its value, nulls kept."""
        text = json.dumps(resolved, indent=2, ensure_ascii=False, default=str)
        write_atomically(self.path / RECIPE, text + "\n")

    def metrics(self, step: int, metrics: Mapping[str, float | int | None], *, stage: str = "main") -> None:
        """Appends the line of one step.

        step: number of the step in the whole run, counted over all stages from 0; lines must come in rising order.
        Raises ContentError for an undeclared name and DataError for a step that is already there.
        """
        check_names(metrics)
        last = self._last_metrics_step()
        if last is not None and step <= last:
            raise DataError(
                f"{self.metrics_file}: step {step} comes after step {last}; call truncate({step}) when resuming there"
            )
        record = {"stage": stage, "step": step, **metrics, "time/clock_s": round(self.clock(), 3)}
        json_lines.append(self.metrics_file, record)
        self._last_step = step

    def event(self, kind: str, **fields: Any) -> None:
        """Appends one event: {"kind": kind, ...fields, "time/clock_s": now}."""
        json_lines.append(self.events_file, {"kind": kind, **fields, "time/clock_s": round(self.clock(), 3)})

    def started(self, *, step: int = 0) -> None:
        """Records that a process took up the run before `step`, and the versions it runs on."""
        self.event("resume" if step else "start", step=step, versions=installed())

    def lights(self, step: int, lights: Iterable[Light], *, stage: str = "main") -> None:
        """Appends a `health` event for every light that is not ok."""
        for light in lights:
            if light.level != "ok":
                self.event("health", stage=stage, step=step, **asdict(light))

    def consumed(self, step: int, task_ids: Sequence[str], *, stage: str = "main") -> None:
        """Appends the prompts that a step took to the ledger, in order, dropped groups included."""
        json_lines.append(self.ledger_file, {"stage": stage, "step": step, "task_ids": list(task_ids)})

    def rollouts(
        self,
        step: int,
        rollouts: Sequence[Rollout],
        *,
        stage: str = "main",
        advantages: Sequence[float | None] | None = None,
        turn_values: Mapping[int, Sequence[TurnValue]] | None = None,
    ) -> Path:
        """Writes rollouts/<stage>-<step>.parquet, one row per rollout in order.

        advantages: one per rollout. turn_values: index of a rollout -> what the algorithm made of each of its turns.
        """
        import pyarrow as pa
        import pyarrow.parquet as parquet

        given = advantages if advantages is not None else [None] * len(rollouts)
        rows = [
            {"stage": stage, "step": step, **_row(rollout, (turn_values or {}).get(index, ())), "advantage": advantage}
            for index, (rollout, advantage) in enumerate(zip(rollouts, given, strict=True))
        ]
        schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])
        buffer = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
        path = self.path / "rollouts" / f"{_file_stem(stage, step)}.parquet"
        write_atomically(path, buffer.getvalue().to_pybytes())
        return path

    def evaluation(self, step: int, results: Sequence[Mapping[str, Any]], *, stage: str = "main", **more: Any) -> Path:
        """Writes evaluations/<stage>-<step>.json and returns its path.

        step: updates behind the evaluated weights (0 is "before"). results: {task_id, correct, text, ...} per answer;
        correct is a bool, a number, or None when the grader could not score it. accuracy is the mean of the scored
        answers, or None without any; n is their count. `more` (for example truncated_frac) is stored beside them.
        """
        scored = [float(row["correct"]) for row in results if row["correct"] is not None]
        record = {
            "stage": stage,
            "step": step,
            "accuracy": sum(scored) / len(scored) if scored else None,
            "n": len(scored),
            **more,
            "results": list(results),
        }
        path = self.path / "evaluations" / f"{_file_stem(stage, step)}.json"
        write_atomically(path, json_lines.dumps(record) + "\n")
        return path

    def truncate(self, step: int) -> int:
        """Makes the folder what it was before `step` began, for exact resume; returns the number of steps cut off.

        Metrics, health events, ledger lines and rollouts of steps >= `step` and evaluations of later weights go to
        `<name>.cut-at-<step>` beside their place (run_folder/cut.py). Other events stay: they are the history of what
        happened to the run.
        """
        self._last_step = None
        steps = cut_lines(self.metrics_file, lambda record: record.get("step", 0) < step, step)
        cut_lines(self.ledger_file, lambda record: record.get("step", 0) < step, step)
        cut_lines(self.events_file, lambda record: record.get("kind") != "health" or record.get("step", 0) < step, step)
        rollouts, evaluations = self.path / "rollouts", self.path / "evaluations"
        cut_files(rollouts, [path for path in rollouts.glob("*.parquet") if step_of(path) >= step], step)
        cut_files(evaluations, [path for path in evaluations.glob("*.json") if step_of(path) > step], step)
        return steps

    def _last_metrics_step(self) -> int | None:
        if self._last_step is None:
            records = json_lines.read(self.metrics_file)
            self._last_step = records[-1]["step"] if records else None
        return self._last_step


def comparable(path: Path) -> list[dict[str, Any]]:
    """The metric lines of a run folder without time/* and memory/*, which no two runs share."""
    return [
        {key: value for key, value in record.items() if not key.startswith(("time/", "memory/"))}
        for record in json_lines.read(Path(path) / "metrics.jsonl")
    ]


def step_of(path: Path) -> int:
    """The step in the name `<stage>-<step>.<ending>` of a rollout or evaluation file; -1 when there is none."""
    found = re.search(r"-(\d+)$", path.stem)
    return int(found.group(1)) if found else -1


def prompt_text(task: Task) -> str:
    """A task's prompt for people to read: the plain text, or `role: content` per message."""
    if task.messages is None:
        return task.text or ""
    return "\n".join(f"{message['role']}: {message_text(message)}" for message in task.messages)


def asked(task: Task) -> str:
    """Names what a task asks and what is right, whatever its id: 16 hex digits that are equal for equal tasks."""
    words = [prompt_text(task), str(task.reference)]
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=8).hexdigest()


def _file_stem(stage: str, step: int) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', stage)}-{step:06d}"


def _row(rollout: Rollout, values: Sequence[TurnValue]) -> dict[str, Any]:
    score = rollout.score
    fault = score.fault if score else None
    return {
        "task_id": rollout.task.id,
        "group": rollout.group,
        "member": rollout.member,
        "prompt": _utf8(prompt_text(rollout.task)),
        "completion": _utf8(rollout.conversation),
        "turns": json_lines.dumps(conversation(rollout, values)) if rollout.end else None,
        "prompt_tokens": len(rollout.turns[0].prompt_ids) if rollout.turns else 0,
        "completion_tokens": rollout.sampled_tokens,
        "stop": str(rollout.end or rollout.turns[-1].stop),
        "reward": score.value if score else None,
        "parts": json_lines.dumps(score.parts) if score else None,
        "fault": _utf8(fault_text(fault)) if fault else None,
        "policy_version": rollout.policy_version,
        "adapter": rollout.adapter,
    }


def fault_text(fault: Fault) -> str:
    """Why a reward is absent, as the rollouts' table says it: `timeout in math_answer: no answer after 5 s`."""
    return f"{fault.kind} in {fault.where}: {fault.message}".removesuffix(": ")


def conversation(rollout: Rollout, values: Sequence[TurnValue] = ()) -> list[dict[str, Any]]:
    """An episode's turns as the column `turns` has them. values: of its turns, in order, as far as they are known."""
    told = [asdict(value) for value in values]
    return [_turn(turn) | (told[number] if number < len(told) else {}) for number, turn in enumerate(rollout.turns)]


def _turn(turn: Turn) -> dict[str, Any]:
    said = {"text": _utf8(turn.text), "reward": turn.reward, "observation": turn.observation}
    faults = {"tool_faults": list(turn.tool_faults)} if turn.tool_faults else {}
    return {**said, "tokens": len(turn.completion_ids), "stop": str(turn.stop), **faults}


def _utf8(text: str) -> str:
    """Text that parquet accepts: half of a surrogate pair, which broken byte-level tokens decode to, becomes `?`."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
