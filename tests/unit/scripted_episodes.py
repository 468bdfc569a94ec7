"""Engines and worlds that say what a script says, and a collector of episodes over them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from alignkit.data.turns import Renderer
from alignkit.engines.hf import HfEngine
from alignkit.environments.base import Observation
from alignkit.models.load import load_policy
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.schema import Model, Rollouts, Scratch
from alignkit.rollout.collect import Collector
from alignkit.rollout.episodes import Episodes
from alignkit.rollout.play import Prompt
from alignkit.types.rollout import Completion, Request, StopReason
from alignkit.types.task import Task

CHARACTERS = "0123456789?<>=!udlr"
TOKENIZER = character_tokenizer(CHARACTERS, context=64)
EOS = 2


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text)["input_ids"])


@dataclass
class Script:
    """An engine that says what the script says: (number of the call, request) -> text; `~` cuts it at its length."""

    say: Callable[[int, Request], str]
    policy_version: int = 0
    calls: list[list[Request]] = field(default_factory=list)

    async def generate(self, requests: list[Request]) -> list[Completion]:
        self.calls.append(list(requests))
        return [self._completion(self.say(len(self.calls), request), request) for request in requests]

    def _completion(self, text: str, request: Request) -> Completion:
        stop = StopReason.ERROR if text == "ERROR" else StopReason.LENGTH if "~" in text else StopReason.END_OF_TEXT
        tokens = () if text == "ERROR" else ids(text.replace("~", "")) + ((EOS,) if "~" not in text else ())
        tokens = tokens[: request.max_new_tokens]
        if tokens and tokens[-1] != EOS:
            stop = StopReason.LENGTH
        return Completion(token_ids=tokens, logprobs=(-0.25,) * len(tokens), stop=stop, versions=((0, 0),))


def collector(
    engine: Any,
    make: Callable[[], Any],
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 5,
    wrap: Callable[[Episodes], Any] = lambda episodes: episodes,
    **options: Any,
) -> Collector:
    """Of episodes, which options change; wrap: the play that is made of them."""
    renderer = Renderer(tokenizer=TOKENIZER, chat=False)
    given = {"name": "game", "renderer": renderer, "max_turns": 8, "context": 64, "deadline_s": 5.0}
    return Collector(
        engine=engine,
        play=wrap(Episodes(make=make, **{**given, **options})),
        scorer=None,
        decode=renderer.decode,
        stop_token_ids=(EOS,),
        settings=Rollouts(engine="hf", **{"prompts": 2, "group": 2, "max_new_tokens": 3, **(settings or {})}),
        seed=seed,
    )


def prompts(count: int, first: int = 0) -> list[Prompt]:
    return [Prompt(task=Task(id=f"t{i}", text="-"), ids=(), position=first + i) for i in range(count)]


def sample(driver: Collector, count: int = 1, first: int = 0) -> list[Any]:
    groups = asyncio.run(driver.sample(prompts(count, first)))
    return [rollout for group in groups for rollout in group]


@dataclass
class Scripted:
    """An environment that answers from a list; an exception in it is raised, a number is slept for."""

    answers: list[Any]

    async def start(self, task: Task, seed: int) -> Observation:
        return await self._next()

    async def step(self, text: str) -> Observation:
        return await self._next()

    async def _next(self) -> Observation:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        return answer


def seen(text: str, reward: float = 0.0, **more: Any) -> Observation:
    return Observation(text=text, reward=reward, **more)


def scripted(*answers: Any) -> Callable[[], Scripted]:
    return lambda: Scripted(list(answers))


def scratch_engine(context: int = 64) -> tuple[Any, HfEngine]:
    section = Model(
        scratch=Scratch(characters=CHARACTERS, layers=2, hidden=32, heads=2, context=context), dtype="float32"
    )
    model, _ = load_policy(section, seed=0, beside=None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # so that distributions are far from uniform
    return model, HfEngine(model, dtype="float32", share=True)
