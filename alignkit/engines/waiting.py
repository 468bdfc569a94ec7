"""Requests that come one at a time to an engine that takes several at once: those that wait go together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from alignkit.types.rollout import Completion, Request


class Waiting:
    """Says requests by `generate`: what comes while one call runs is said in the next one, together."""

    def __init__(self, generate: Callable[[Sequence[Request]], Awaitable[list[Completion]]]):
        self._generate = generate
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []
        self._running: asyncio.Task[None] | None = None

    async def sample(self, request: Request) -> Completion:
        """The request's Completion. Raises what the call raised that it was part of."""
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        while self._waiting:
            now, self._waiting = self._waiting, []
            asked = [(request, answer) for request, answer in now if not answer.done()]  # those that gave up are not
            try:
                said = list(zip(asked, await self._generate([request for request, _ in asked]), strict=True))
            except Exception as error:  # also of an engine that answers too few: nobody is left waiting
                for _, answer in asked:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), completion in said:
                if not answer.done():
                    answer.set_result(completion)
