"""Requests that wait go together, and what fails or gives up harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from alignkit.engines.waiting import Waiting
from alignkit.errors import EngineError
from alignkit.types.rollout import Completion, Request
from alignkit.types.turn import StopReason


def request(number: int) -> Request:
    return Request(prompt_ids=(number,), seed=number, max_new_tokens=1)


class Engine:
    """Says a request's number back, after the others had time to come; 13 breaks it."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.calls.append([one.seed for one in requests])
        await asyncio.sleep(0.01)
        if any(one.seed == 13 for one in requests):
            raise EngineError("thirteen")
        stop = StopReason.END_OF_TEXT
        return [Completion(token_ids=(r.seed,), logprobs=(0.0,), stop=stop, versions=((0, 0),)) for r in requests]


def test_what_comes_while_a_call_runs_is_said_together_in_the_next():
    engine = Engine()

    async def run() -> list[Completion]:
        waiting = Waiting(engine.generate)
        first = asyncio.create_task(waiting.sample(request(0)))
        await asyncio.sleep(0.002)
        rest = [asyncio.create_task(waiting.sample(request(number))) for number in range(1, 6)]
        return await asyncio.gather(first, *rest)

    said = asyncio.run(run())
    assert [one.token_ids[0] for one in said] == [0, 1, 2, 3, 4, 5]
    assert engine.calls == [[0], [1, 2, 3, 4, 5]]


def test_a_call_that_fails_fails_those_in_it_and_the_next_goes_on():
    engine = Engine()

    async def run() -> Completion:
        waiting = Waiting(engine.generate)
        with pytest.raises(EngineError, match="thirteen"):
            await waiting.sample(request(13))
        return await waiting.sample(request(2))

    assert asyncio.run(run()).token_ids == (2,)


def test_one_that_gives_up_is_not_sampled():
    engine = Engine()

    async def run() -> list[Completion]:
        waiting = Waiting(engine.generate)
        first = asyncio.create_task(waiting.sample(request(0)))
        await asyncio.sleep(0.002)
        gone, kept = (asyncio.create_task(waiting.sample(request(number))) for number in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        return await asyncio.gather(first, kept)

    assert [one.token_ids[0] for one in asyncio.run(run())] == [0, 2]
    assert engine.calls == [[0], [2]]


def test_an_engine_that_answers_too_few_leaves_nobody_waiting():
    async def short(requests: Sequence[Request]) -> list[Completion]:
        return []

    async def run() -> None:
        await asyncio.wait_for(Waiting(short).sample(request(1)), 5)

    with pytest.raises(ValueError, match="shorter"):
        asyncio.run(run())
