"""Labels of reasoning steps by rolling out: from the end of each step a model goes on, and a reward judges how it ends.

What is sampled depends on the seed, the row, the step and the number of the roll-out alone. Solutions are appended to
the output as they are finished; a run that was killed goes on after the last one and ends with the same file.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from alignkit.data.prompts import render
from alignkit.data.sources import load_tasks
from alignkit.data.tokens import plain_ids, said_text
from alignkit.errors import AlignkitError
from alignkit.evaluate.benchmark.grade import scorer_hash
from alignkit.evaluate.benchmark.protocol import MetricSpec
from alignkit.models.load import model_folder
from alignkit.recipe.schema import Data, RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rollout.step_rollouts import Labeller, Labelling, Labels, Place, given_solution
from alignkit.run.evaluate.evaluated_model import folder_hash, load_parts, start_engine
from alignkit.run.lab.lab import digest_of
from alignkit.run_folder import json_lines
from alignkit.types.task import Task

BLOCK = 8  # solutions of one engine call; a block is always sampled whole, so that going on gives the same labels


def label_steps(
    data: Data,
    model: str,
    reward: RewardSpec,
    settings: Labelling,
    *,
    out: Path,
    engine: str = "vllm",
    workers: int = 2,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Labels the steps of all solutions into the JSON-lines file `out`; returns a summary for JSON.

    Lines are {id, solution, prompt, steps, labels, rates, right, reference}: rows that a reward model learns steps
    from. Solutions without labels go, with the reason, into `<out>.left_out`. report: called with the number of
    solutions that are done and of all. Raises AlignkitError when `out` was made with other settings, data or weights.
    """
    folder = model_folder(model)
    tokenizer, config, stops = load_parts(folder, model)
    if data.chat and not tokenizer.chat_template:
        data = data.model_copy(update={"chat": False})
    tasks = load_tasks(data, seed=settings.seed, beside=Path())
    prompts = {task.id: tuple(render(tokenizer, task, data)) for task in tasks}
    places = [Place(task, number) for task in tasks for number in range(max(1, settings.solutions))]
    output = Output(out, _made(data, folder, reward, settings))
    start = time.perf_counter()
    with ExitStack() as resources:
        room = min(config.max_position_embeddings, _longest(tokenizer, tasks, prompts, settings))
        started, kind, context = start_engine(engine, folder, room, settings.seed, resources)
        labeller = Labeller(
            settings=settings,
            engine=started,
            pool=resources.enter_context(closing(RewardPool([reward], workers=workers, beside=Path()))),
            context=min(room, context),
            stops=stops,
            prompts=prompts,
            encode=lambda text: plain_ids(tokenizer, text),
            decode=lambda ids: said_text(tokenizer, ids, stops),
        )
        asyncio.run(_label(labeller, output, places, report))
    told = {"out": str(out), "model": model, "engine": kind, "reward": reward.name, **asdict(settings)}
    told["eta"] = settings.eta if math.isfinite(settings.eta) else "inf"  # JSON has no infinity
    return {**told, **output.summary(), "rollouts_sampled": labeller.sampled, "seconds": time.perf_counter() - start}


class Output:
    """The file of labelled solutions and the one beside it of those that were left out; both only grow."""

    def __init__(self, path: Path, made: str):
        self.path, self.left_out, self._made = path, path.with_name(f"{path.name}.left_out"), made
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows, self.dropped = json_lines.read(path), json_lines.read(self.left_out)
        self.found = len(self.rows)
        other = next((row for row in self.rows + self.dropped if row.get("made") != made), None)
        if other is not None:
            raise AlignkitError(
                f"{path} holds labels of other settings, data or weights (task {other.get('id')}); name another --out, "
                "or remove it"
            )
        self.done = {(row["id"], row["solution"]) for row in self.rows + self.dropped}

    def add(self, labels: Labels) -> None:
        """One line more, on the disk when this returns."""
        place = labels.place
        line: dict[str, Any] = {"id": place.task.id, "solution": place.number}
        if labels.solution is None:
            line |= {"reason": labels.reason}
        else:
            line |= {"prompt": _prompt(place.task), "steps": labels.solution.steps, "labels": labels.labels}
            line |= {"rates": labels.rates, "right": bool(labels.rates[-1]), "reference": place.task.reference}
        line["made"] = self._made
        json_lines.append(self.path if labels.solution else self.left_out, line)
        (self.rows if labels.solution else self.dropped).append(line)
        self.done.add(place.key)

    def summary(self) -> dict[str, Any]:
        """Counts and means over the whole file."""
        labels = [label for row in self.rows for label in row["labels"]]
        return {
            "labelled": len(self.rows),
            "found": self.found,
            "left_out": dict(sorted(Counter(row["reason"] for row in self.dropped).items())),
            "steps": len(labels),
            "label_mean": fmean(labels) if labels else None,
            "right": fmean(row["right"] for row in self.rows) if self.rows else None,
        }


async def _label(
    labeller: Labeller, output: Output, places: Sequence[Place], report: Callable[[int, int], None]
) -> None:
    done = 0
    for start in range(0, len(places), BLOCK):
        block = places[start : start + BLOCK]
        missing = {place.key for place in block} - output.done
        if missing:
            for labels in await labeller.label(block):
                if labels.place.key in missing:
                    output.add(labels)
        done += len(block)
        report(done, len(places))


def _longest(tokenizer: Any, tasks: Sequence[Task], prompts: Mapping[str, tuple[int, ...]], settings: Labelling) -> int:
    """Tokens of the longest prompt with its solution and a whole roll-out from its end."""

    def solution(task: Task) -> int:
        if settings.solutions:
            return settings.max_new_tokens
        return len(plain_ids(tokenizer, given_solution(task)[0]))

    return max(len(prompts[task.id]) + solution(task) for task in tasks) + settings.max_new_tokens


def _prompt(task: Task) -> str | list[dict[str, Any]] | None:
    return task.text if task.messages is None else [dict(message) for message in task.messages]


def _made(data: Data, folder: Path, reward: RewardSpec, settings: Labelling) -> str:
    """Hex digest of all that labels depend on; the number of rows is not part of it, so that more can be added."""
    told = {
        "settings": asdict(settings),
        "data": [digest_of(data.source), data.model_dump(mode="json", exclude={"limit"})],
        "model": folder_hash(folder),
        "reward": scorer_hash(MetricSpec(reward=reward.name, options=reward.options), beside=Path()),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]
