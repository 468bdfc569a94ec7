"""An engine asked for one request at a time, so that none waits for those beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.engines.engine import Sampler
from alignkit.types.rollout import Completion, Request


@dataclass(frozen=True)
class FreeRunning:
    """Fulfils Sampler over another one, whose continuous batching takes the place of calls in lockstep.

    What shares a batch is chance, so a second run gives the same samples but for rounding, and not the same bits.
    """

    engine: Sampler

    @property
    def policy_version(self) -> int:
        return self.engine.policy_version

    async def sample(self, request: Request) -> Completion:
        return await self.engine.sample(request)

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return list(await asyncio.gather(*map(self.engine.sample, requests)))

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self.engine.score(sequences)
