"""Answers of a saved model to a file of prompts, scored by its run's rewards where they can be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.data.opened import opened
from alignkit.data.prompts import render
from alignkit.data.sources import load_tasks
from alignkit.data.tokens import said_text
from alignkit.errors import ContentError
from alignkit.recipe.schema import Data
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.serve.wire import text_rollouts
from alignkit.run.evaluate.evaluated_model import load_parts, start_engine
from alignkit.run.talk.conversation import Answer
from alignkit.run.talk.trained import Trained
from alignkit.run_folder import json_lines
from alignkit.run_folder.run_folder import fault_text
from alignkit.types.rollout import Completion, Request
from alignkit.types.score import Score
from alignkit.types.seeds import child
from alignkit.types.task import Task

AT_ONCE = 64  # answers


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How much is sampled, and by whom. engine: vllm, hf, or the address of a vLLM server."""

    samples: int = 1
    temperature: float
    max_new_tokens: int
    engine: str
    seed: int = 0


Told = Callable[[dict[str, Any], Answer], None]
"""Is told each row as it was written, and the answer in it with its score."""


def sample(trained: Trained, source: str, settings: Sampling, *, out: Path, told: Told | None = None) -> dict[str, Any]:
    """Writes a line {id, sample, prompt, completion, stop, tokens, reward} for each answer; a summary for JSON.

    source: rows as of `data.source`. reward: None where the run has none or none could be given; then `fault` says why,
    else `parts` has each reward by name. Answers come AT_ONCE at a time and stand in `<out>.unfinished` until all are
    there. Raises DataError for rows without a prompt, ContentError when a prompt leaves no room for an answer.
    """
    tokenizer, config, stops = load_parts(trained.folder, trained.name)
    asked = trained.data  # of which the file of prompts takes over how a conversation is written, and no rows
    data = Data(source=source, system=asked.system, chat=asked.chat, chat_template_kwargs=asked.chat_template_kwargs)
    if data.chat and not tokenizer.chat_template:
        data = data.model_copy(update={"chat": False})
    tasks = load_tasks(data, seed=settings.seed, beside=Path())
    prompts = [tuple(render(tokenizer, task, data)) for task in tasks]
    context = min(config.max_position_embeddings, max(map(len, prompts)) + settings.max_new_tokens)
    longest = max(zip(map(len, prompts), tasks, strict=True), key=lambda pair: pair[0])
    if longest[0] >= context:
        raise ContentError(f"{longest[1].id}: its prompt of {longest[0]} tokens fills the context of {context} tokens")
    rows: list[dict[str, Any]] = []
    unfinished = out.with_name(f"{out.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with ExitStack() as resources:
        engine, kind, _ = start_engine(settings.engine, trained.folder, context, settings.seed, resources)
        pool = None
        if trained.rewards:
            pool = RewardPool(trained.rewards, workers=1, beside=trained.beside)
            resources.callback(pool.close)
        few = max(1, AT_ONCE // settings.samples)
        for first in range(0, len(tasks), few):
            own = range(first, min(first + few, len(tasks)))
            requests = [
                Request(
                    prompt_ids=prompts[number],
                    seed=child(settings.seed, "sample", number, member),
                    max_new_tokens=min(settings.max_new_tokens, context - len(prompts[number])),
                    temperature=settings.temperature,
                    stop_token_ids=stops,
                )
                for number in own
                for member in range(settings.samples)
            ]
            completions: list[Completion] = asyncio.run(engine.generate(requests))
            owners = [tasks[number] for number in own for _ in range(settings.samples)]
            texts = [
                opened(tokenizer, task, data) + said_text(tokenizer, completion.token_ids, stops)
                for task, completion in zip(owners, completions, strict=True)
            ]
            scores = _scores(pool, [tasks[number] for number in own], texts, settings.samples)
            for number, (task, text, completion, score) in enumerate(
                zip(owners, texts, completions, scores, strict=True)
            ):
                row = {"id": task.id, "sample": number % settings.samples, "prompt": _prompt(task), "completion": text}
                row |= {"stop": str(completion.stop), "tokens": len(completion.token_ids), **_judged(score)}
                json_lines.append(unfinished, row)
                rows.append(row)
                if told:
                    told(row, Answer(text, score))
    unfinished.replace(out)
    values = [row["reward"] for row in rows if row["reward"] is not None]
    return {
        **{"out": str(out), "model": trained.name, "engine": kind, "prompts": len(tasks), "answers": len(rows)},
        "tokens": sum(row["tokens"] for row in rows),
        "scored": len(values),
        "reward_mean": sum(values) / len(values) if values else None,
        "faults": dict(Counter(row["fault"].partition(":")[0] for row in rows if "fault" in row)),
    }


def _scores(pool: RewardPool | None, tasks: list[Task], texts: list[str], samples: int) -> list[Score | None]:
    """All answers to a prompt are judged together, because a reward may compare them."""
    if pool is None:
        return [None] * len(texts)
    groups = [
        (task, text_rollouts(task, texts[number * samples : (number + 1) * samples]))
        for number, task in enumerate(tasks)
    ]
    return [score for group in asyncio.run(pool.score(groups)) for score in group]


def _judged(score: Score | None) -> dict[str, Any]:
    if score is None:
        return {"reward": None}
    if score.value is None:
        return {"reward": None, "fault": fault_text(score.fault) if score.fault else "no cause given"}
    return {"reward": score.value, "parts": dict(score.parts)}


def _prompt(task: Task) -> Any:
    return task.text if task.messages is None else list(task.messages)
