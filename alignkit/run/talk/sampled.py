"""Answers of a saved model to a file of prompts, scored by its run's rewards where they can be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import ExitStack, closing
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
from alignkit.run.talk.trained import Trained
from alignkit.run_folder import json_lines
from alignkit.types.files import write_atomically
from alignkit.types.rollout import Completion, Request
from alignkit.types.score import Score
from alignkit.types.seeds import child
from alignkit.types.task import Task


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How much is sampled, and by whom. engine: vllm, hf, or the address of a vLLM server."""

    samples: int = 1
    temperature: float
    max_new_tokens: int
    engine: str
    seed: int = 0


def sample(trained: Trained, source: str, settings: Sampling, *, out: Path) -> dict[str, Any]:
    """Writes a line {id, sample, prompt, completion, stop, tokens, reward} for each answer; a summary for JSON.

    source: rows as of `data.source`. reward: None where the run has none or none could be given; `fault` says why.
    Raises DataError for rows without a prompt, ContentError when a prompt leaves no room for an answer.
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
    requests = [
        Request(
            prompt_ids=prompt,
            seed=child(settings.seed, "sample", number, member),
            max_new_tokens=min(settings.max_new_tokens, context - len(prompt)),
            temperature=settings.temperature,
            stop_token_ids=stops,
        )
        for number, prompt in enumerate(prompts)
        for member in range(settings.samples)
    ]
    with ExitStack() as resources:
        engine, kind, _ = start_engine(settings.engine, trained.folder, context, settings.seed, resources)
        completions: list[Completion] = asyncio.run(engine.generate(requests))
    owners = [task for task in tasks for _ in range(settings.samples)]
    texts = [
        opened(tokenizer, task, data) + said_text(tokenizer, completion.token_ids, stops)
        for task, completion in zip(owners, completions, strict=True)
    ]
    scores = _scores(trained, tasks, texts, settings.samples)
    rows = [
        {"id": task.id, "sample": number % settings.samples, "prompt": _prompt(task), "completion": text}
        | {"stop": str(completion.stop), "tokens": len(completion.token_ids)}
        | _judged(score)
        for number, (task, text, completion, score) in enumerate(zip(owners, texts, completions, scores, strict=True))
    ]
    write_atomically(out, "".join(json_lines.dumps(row) + "\n" for row in rows))
    values = [score.value for score in scores if score is not None and score.value is not None]
    mean = sum(values) / len(values) if values else None
    told = {"out": str(out), "model": trained.name, "engine": kind, "prompts": len(tasks), "answers": len(rows)}
    return {
        **told,
        "tokens": sum(len(one.token_ids) for one in completions),
        "scored": len(values),
        "reward_mean": mean,
    }


def _scores(trained: Trained, tasks: list[Task], texts: list[str], samples: int) -> Iterable[Score | None]:
    if not trained.rewards:
        return [None] * len(texts)
    groups = [
        (task, text_rollouts(task, texts[number * samples : (number + 1) * samples]))
        for number, task in enumerate(tasks)
    ]
    with closing(RewardPool(trained.rewards, workers=1, beside=trained.folder.parent)) as pool:
        return [score for group in asyncio.run(pool.score(groups)) for score in group]


def _judged(score: Score | None) -> dict[str, Any]:
    if score is None:
        return {"reward": None}
    fault = {"fault": score.fault.message} if score.fault and score.value is None else {}
    return {"reward": score.value, **fault}


def _prompt(task: Task) -> Any:
    return task.text if task.messages is None else list(task.messages)
