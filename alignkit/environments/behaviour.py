"""Behaviour policies that play a Game: the expert, random legal moves, and mixtures of the two."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import numpy as np

from alignkit.environments.base import Game
from alignkit.types.seeds import child
from alignkit.types.task import Task

Behaviour = Literal["expert", "random", "mixed"]
BEHAVIOURS = ("expert", "random", "mixed")


def play(
    game: Game, *, seed: int, behaviour: Behaviour, max_turns: int, player: int | None = None
) -> list[dict[str, Any]]:
    """One episode as turns, `{observation, action, reward}` each; at most `max_turns`.

    The expert plays `best`, random a uniform `choices`; a mixed player draws its own share of random moves, uniform on
    0..1, once per episode. The reward is the one that the action earned. player: the player's own seed; None: `seed`,
    which is the game's.
    """
    random = np.random.Generator(np.random.Philox(key=child(seed if player is None else player, "behaviour")))
    return asyncio.run(_play(game, seed, behaviour, max_turns, random))


async def _play(
    game: Game, seed: int, behaviour: Behaviour, max_turns: int, random: np.random.Generator
) -> list[dict[str, Any]]:
    share = {"expert": 0.0, "random": 1.0, "mixed": random.random()}[behaviour]
    seen = await game.start(Task(id="play", text="play"), seed)
    turns: list[dict[str, Any]] = []
    while not seen.done and len(turns) < max_turns:
        choices = game.choices()
        text = choices[random.integers(len(choices))] if random.random() < share else game.best()
        observation, seen = seen.text, await game.step(text)
        turns.append({"observation": observation, "action": text, "reward": seen.reward})
    return turns
