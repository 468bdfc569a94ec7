"""Answers of an engine to tasks, each prompt generated once: what is on the disk is not asked again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from alignkit.errors import EngineError
from alignkit.evaluate.benchmark.protocol import Sampling
from alignkit.evaluate.benchmark.tasks import cut
from alignkit.types.files import append_line, make_folder
from alignkit.types.rollout import Completion, Request, Rollout, StopReason, Turn
from alignkit.types.seeds import child
from alignkit.types.task import Task

BLOCK = 128  # requests of one engine call: after each the answers are on the disk
NO_ROOM = "no_room"  # the prompt fills the model's context


class AnsweringEngine(Protocol):
    """What evaluation needs of a rollout engine."""

    async def generate(self, requests: Sequence[Request]) -> list[Completion]: ...

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]: ...


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model behind an engine or only a name.

    encode: a task's prompt ids. decode: what was said, as text without stop and pad tokens. opened: what the prompt
    holds of the answer already; it belongs to the answer's text.
    """

    name: str
    hash: str
    engine: AnsweringEngine | None
    kind: str
    context: int
    stop_token_ids: tuple[int, ...]
    encode: Callable[[Task], tuple[int, ...]]
    decode: Callable[[Sequence[int]], str]
    opened: Callable[[Task], str] = lambda task: ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One completion. text: cut at the protocol's stop texts. stop: the StopReason, `stop_text` or `no_room`."""

    task_id: str
    sample: int
    token_ids: tuple[int, ...]
    text: str
    stop: str

    @property
    def truncated(self) -> bool:
        return self.stop in (StopReason.LENGTH, StopReason.CONTEXT_FULL)

    @property
    def failed(self) -> bool:
        return self.stop in (StopReason.ERROR, NO_ROOM)

    def rollout(self, task: Task) -> Rollout:
        """As rewards read it. A stop text is an end that the model chose."""
        known = {str(reason) for reason in StopReason}
        stop = StopReason(self.stop) if self.stop in known else StopReason.END_OF_TEXT
        turn = Turn(prompt_ids=(), completion_ids=self.token_ids, sampler_logprobs=(), stop=stop, text=self.text)
        return Rollout(task=task, group=0, member=self.sample, turns=(turn,), policy_version=0)


class AnswerLog:
    """A file of answers, one JSON object a line, appended in whole blocks. A torn last line is dropped."""

    def __init__(self, path: Path):
        self.path = path
        self.answers: dict[tuple[str, int], Answer] = {}
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            with suppress(ValueError, TypeError):  # a line that a crash of the machine left half written
                fields = json.loads(line)
                answer = Answer(**fields | {"token_ids": tuple(fields["token_ids"])})
                self.answers.setdefault((answer.task_id, answer.sample), answer)

    def add(self, answers: Iterable[Answer]) -> None:
        """Returns when they are on the disk."""
        answers = list(answers)
        text = "\n".join(json.dumps(_as_json(answer), ensure_ascii=False) for answer in answers)
        make_folder(self.path.parent)
        if answers:
            append_line(self.path, text.encode("utf-8"))
        self.answers |= {(answer.task_id, answer.sample): answer for answer in answers}


async def collect_answers(
    model: Model,
    tasks: Sequence[Task],
    sampling: Sampling,
    log: AnswerLog,
    *,
    seed: int,
    report: Callable[[int], None],
) -> list[list[Answer]]:
    """`sampling.samples` answers per task, in order; those in `log` are not generated again.

    A sample's randomness depends on the seed, its task and its number alone: neither on the order of the tasks nor on
    how they are cut into calls. report: called with the number of answers that are done. Raises EngineError when the
    engine dies; all whole blocks are kept.
    """
    wanted = [(task, number) for task in tasks for number in range(sampling.samples)]
    missing = [(task, number) for task, number in wanted if (task.id, number) not in log.answers]
    report(len(wanted) - len(missing))
    for start in range(0, len(missing), BLOCK):
        block = missing[start : start + BLOCK]
        log.add(await _answer(model, block, sampling, seed))
        report(len(block))
    return [[log.answers[task.id, number] for number in range(sampling.samples)] for task in tasks]


async def _answer(model: Model, block: Sequence[tuple[Task, int]], sampling: Sampling, seed: int) -> list[Answer]:
    prompts = [model.encode(task) for task, _ in block]
    requests = [
        Request(
            prompt_ids=prompt,
            seed=child(seed, "eval", task.id, number),
            max_new_tokens=min(sampling.max_new_tokens, model.context - len(prompt)),
            temperature=sampling.temperature,
            stop_token_ids=model.stop_token_ids,
        )
        for (task, number), prompt in zip(block, prompts, strict=True)
        if 0 < len(prompt) < model.context
    ]
    completions = await model.engine.generate(requests) if requests and model.engine else []
    if len(completions) != len(requests):
        raise EngineError(f"{model.kind} engine: {len(completions)} completions for {len(requests)} prompts")
    answered = iter(completions)
    return [
        _read(model, task, number, next(answered) if 0 < len(prompt) < model.context else None, sampling)
        for (task, number), prompt in zip(block, prompts, strict=True)
    ]


def _read(model: Model, task: Task, number: int, completion: Completion | None, sampling: Sampling) -> Answer:
    if completion is None:
        return Answer(task_id=task.id, sample=number, token_ids=(), text="", stop=NO_ROOM)
    whole = model.decode(completion.token_ids)
    text = cut(whole, sampling.stop)
    stop = "stop_text" if text != whole else str(completion.stop)
    text = model.opened(task) + text
    if stop == StopReason.LENGTH and len(completion.token_ids) < sampling.max_new_tokens:
        stop = str(StopReason.CONTEXT_FULL)
    return Answer(task_id=task.id, sample=number, token_ids=completion.token_ids, text=text, stop=stop)


def _as_json(answer: Answer) -> dict[str, Any]:
    return {
        "task_id": answer.task_id,
        "sample": answer.sample,
        "token_ids": list(answer.token_ids),
        "text": answer.text,
        "stop": answer.stop,
    }
