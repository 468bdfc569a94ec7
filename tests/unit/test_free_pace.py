"""Episodes at their own pace: how full a batch they keep, in the time of a clock that no busy machine moves."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from alignkit.engines.hf import HfEngine
from alignkit.environments.base import Observation
from alignkit.rollout.free_running import FreeRunning
from alignkit.types.rollout import Completion, Request
from alignkit.types.task import Task
from alignkit.types.turn import StopReason
from tests.unit.scripted_episodes import EOS, collector, ids, prompts, scratch_engine

SLOTS, TURNS, EPISODES = 32, 8, 64


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time moves on at once to whatever comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select  # ty: ignore[unresolved-attribute]

        def jump(timeout: float | None) -> Any:
            events = select(0)
            if not events and timeout:
                self.now += timeout
            return events

        self._selector.select = jump  # ty: ignore[unresolved-attribute]

    def time(self) -> float:
        return self.now


class Slots:
    """An engine with so many places in its batch; a request stays in one for 1 to 10 s, as its seed says."""

    policy_version = 0

    def __init__(self) -> None:
        self.busy_s = 0.0
        self.places = asyncio.Semaphore(SLOTS)

    async def sample(self, request: Request) -> Completion:
        async with self.places:
            seconds = float(np.random.default_rng(request.seed).uniform(1, 10))
            await asyncio.sleep(seconds)
            self.busy_s += seconds
        return Completion(
            token_ids=(*ids("0"), EOS), logprobs=(-0.1,) * 2, stop=StopReason.END_OF_TEXT, versions=((0, 0),)
        )

    async def generate(self, requests: list[Request]) -> list[Completion]:
        return list(await asyncio.gather(*map(self.sample, requests)))


class Thinks:
    """An environment that answers in 0.1 to 1 s."""

    async def start(self, task: Task, seed: int) -> Observation:
        self.random, self.turns = np.random.default_rng(seed), 0
        return Observation(text="?")

    async def step(self, text: str) -> Observation:
        await asyncio.sleep(self.random.uniform(0.1, 1))
        self.turns += 1
        return Observation(text="<", done=self.turns == TURNS)


def fullness(*, lockstep: bool) -> float:
    """Share of the batch's places that were taken, from the first request to the last."""
    engine = Slots()
    settings = {"prompts": EPISODES, "group": 1}
    driver = collector(
        engine if lockstep else FreeRunning(engine), Thinks, settings=settings, lockstep=lockstep, max_turns=TURNS
    )
    with asyncio.Runner(loop_factory=Clock) as runner:
        groups = runner.run(driver.sample(prompts(EPISODES)))
        assert all(len(rollout.turns) == TURNS for group in groups for rollout in group)
        return engine.busy_s / (SLOTS * runner.get_loop().time())


def test_64_episodes_with_turn_times_spread_tenfold_keep_the_batch_80_percent_full():
    free, lockstep = fullness(lockstep=False), fullness(lockstep=True)
    assert free > 0.9
    assert lockstep < 0.8 < free


def test_fast_episodes_do_not_wait_for_a_slow_one():
    ended: list[tuple[float, str]] = []

    class Slow(Thinks):
        async def step(self, text: str) -> Observation:
            slow = len(ended) == 0 and self.seed % 2 == 0
            await asyncio.sleep(50 if slow else 0.1)
            ended.append((asyncio.get_running_loop().time(), "slow" if slow else "fast"))
            return Observation(text="=", done=True)

        async def start(self, task: Task, seed: int) -> Observation:
            self.seed = int(task.id[1:])
            return Observation(text="?")

    driver = collector(FreeRunning(Slots()), Slow, settings={"prompts": 2, "group": 1}, lockstep=False, deadline_s=99)
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(driver.sample(prompts(2)))
    assert [name for _, name in ended] == ["fast", "slow"]
    assert ended[0][0] < 11 < 50 < ended[1][0]


def test_the_shared_model_stays_in_its_mode_while_many_ask_it_at_once():
    """Requests of a free pace come one at a time: no call may take another's `train()` for its own."""
    model, engine = scratch_engine()
    assert isinstance(engine, HfEngine)
    model.train()
    requests = [Request(prompt_ids=ids("?"), seed=seed, max_new_tokens=8, stop_token_ids=(EOS,)) for seed in range(24)]
    free = asyncio.run(FreeRunning(engine).generate(requests))
    assert model.training
    together = asyncio.run(engine.generate(requests))
    assert [one.token_ids for one in free] == [one.token_ids for one in together]
