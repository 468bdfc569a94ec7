"""Measures what episodes cost besides sampling, and how full they keep the engine's batch at either pace.

    python benchmarks/agents_pace.py processes  # start and turn of an episode, in the trainer and in its own process
    python benchmarks/agents_pace.py batch      # 64 episodes on vLLM, 32 at once, turns of 4 to 40 tokens

Prints one JSON object. On a shared machine the seconds are bounds: the load average is printed with them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alignkit.data.turns import Renderer
from alignkit.engines.vllm.arguments import Settings
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.environments.apart import Apart
from alignkit.environments.lift import World
from alignkit.models.load import load_policy
from alignkit.recipe import schema
from alignkit.rollout.collect import Collector
from alignkit.rollout.episodes import Episodes
from alignkit.rollout.free_running import FreeRunning
from alignkit.rollout.play import Prompt
from alignkit.types.rollout import Completion, Request
from alignkit.types.task import Task

EPISODES, PLACES, TURNS = 64, 32, 6
GAME = "from alignkit.environments.guess_number import guess_number as game\n"


def processes() -> dict[str, Any]:
    """Median seconds of an episode's start and of a turn, one at a time; and of 64 episodes of 6 turns all at once."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "game.py").write_text(GAME)
        world = World(name="./game.py:game", options={"numbers": 1000, "guesses": 99}, beside=Path(folder))
        places: dict[str, Callable[[], Any]] = {"trainer": world.factory(), "own": Apart(world, memory_bytes=1 << 30)}
        return {name: asyncio.run(_costs(make)) for name, make in places.items()}


async def _costs(make: Callable[[], Any]) -> dict[str, float]:
    starts, turns = [], []
    for number in range(40):
        episode, begun = make(), time.perf_counter()
        await episode.start(Task(id="t", text="-"), number)
        starts.append(time.perf_counter() - begun)
        for _ in range(TURNS):
            begun = time.perf_counter()
            await episode.step("1")
            turns.append(time.perf_counter() - begun)
        getattr(episode, "close", lambda: None)()
    begun = time.perf_counter()
    await asyncio.gather(*(_episode(make(), number) for number in range(EPISODES)))
    return {"start_s": median(starts), "turn_s": median(turns), "all_s": time.perf_counter() - begun}


async def _episode(episode: Any, number: int) -> None:
    await episode.start(Task(id="t", text="-"), number)
    for _ in range(TURNS):
        await episode.step("1")
    getattr(episode, "close", lambda: None)()


class Watched:
    """An engine whose requests are 4 to 40 tokens long, as their seeds say. held_s: seconds times requests in it."""

    def __init__(self, engine: VllmEngine):
        self.engine, self.policy_version = engine, engine.policy_version
        self.held_s, self.inside, self.since = 0.0, 0, time.perf_counter()

    def _change(self, by: int) -> None:
        now = time.perf_counter()
        self.held_s += min(self.inside, PLACES) * (now - self.since)
        self.inside, self.since = self.inside + by, now

    async def sample(self, request: Request) -> Completion:
        tokens = int(np.random.default_rng(request.seed).integers(4, 41))
        self._change(1)
        try:
            return await self.engine.sample(replace(request, max_new_tokens=tokens, stop_token_ids=()))
        finally:
            self._change(-1)

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return list(await asyncio.gather(*map(self.sample, requests)))


def batch() -> dict[str, Any]:
    """For either pace: share of the 32 places that held a request, and seconds of all 64 episodes.

    Of SmolLM2, since a toy answers sooner than a busy machine's trainer gets its turn to ask again.
    """
    model, tokenizer = load_policy(schema.Model(path="smollm2-135m-instruct", dtype="float32"), seed=0, beside=None)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        engine = VllmEngine(
            Path(folder),
            dtype="float32",
            max_model_len=512,
            log_file=Path(folder, "engine.log"),
            settings=Settings(options={"max_num_seqs": PLACES}),
        )
        try:
            asyncio.run(_paced(engine, tokenizer, lockstep=True, episodes=2))  # warm
            return {
                pace: asyncio.run(_paced(engine, tokenizer, lockstep=pace == "lockstep"))
                for pace in ("lockstep", "free")
            }
        finally:
            engine.close()


async def _paced(engine: VllmEngine, tokenizer: Any, *, lockstep: bool, episodes: int = EPISODES) -> dict[str, float]:
    watched = Watched(engine)
    renderer = Renderer(tokenizer=tokenizer, chat=False)
    make = World(name="guess_number", options={"numbers": 10**6, "guesses": 99}).factory()
    play = Episodes(
        make=make, name="game", renderer=renderer, max_turns=TURNS, context=512, deadline_s=60, lockstep=lockstep
    )
    sampler: Any = watched if lockstep else FreeRunning(watched)  # ty: ignore[invalid-argument-type]  # it scores nothing
    collector = Collector(
        engine=sampler,
        play=play,
        scorer=None,
        decode=renderer.decode,
        stop_token_ids=(),
        settings=schema.Rollouts(prompts=episodes, group=1, max_new_tokens=40),
        seed=0,
    )
    prompts = [Prompt(task=Task(id=str(n), text="-"), ids=(), position=n) for n in range(episodes)]
    begun = time.perf_counter()
    await collector.sample(prompts)
    seconds = time.perf_counter() - begun
    return {"full": watched.held_s / (PLACES * seconds), "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("processes", "batch"))
    found = {"processes": processes, "batch": batch}[parser.parse_args().what]()
    print(json.dumps({**found, "load": os.getloadavg()[0]}))
