"""Keep a bed for 20 days, one sentence a day: whoever catches the rain can water in the sun. It pays at the end only.

Made for asking when a critic on whole utterances beats one on tokens. Said before any run:

- *Token-level credit forgets here.* A sentence has 14 or 15 tokens with its stop token, a game 20 sentences. GAE over
  tokens (gamma 1, lambda 0.95) weighs what is paid at the end with 0.95^(14 x 19) = 1e-6 in the advantage and in the
  critic's target of the first day: the reward is not seen from there. It has to come back through the critic's own
  estimates, about 1 / (1 - lambda) = 20 tokens, less than two days, an update, and every relay adds the critic's error.
  With lambda 1 nothing is forgotten, but each day's advantage carries the luck of all the others: frost, and waterings
  that fail.
- *Turn-level TD does not.* A turn is one step whatever its length: with lambda 0.9 a turn the first day sees 0.9^19 =
  0.14 of the end at once, a hundred thousand times as much, and a replayed critic passes on the rest while no new game
  is played. Between turns the state is seen whole (weather, water, height), so its V needs no memory.
- *Which tokens decide is unclear to a critic on tokens*: the first word of `water heavily` is not yet a decision.

What an exact critic could tell, `python -m benchmarks.garden_credit` says: then a short memory is the better one.

What may spoil this: height is shown and worth what it says, so a critic that reads it is right within two days of the
end, whatever its lambda. What height does not tell is what water is worth, and that is most of good play.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

WEATHERS = "srf"  # sun, rain, frost: each as likely on every day
COMMANDS = ("catch the rain", "water lightly", "water heavily", "cover the bed", "pull the weeds", "rest for a day")
TANK = 3
HIGHEST = 99
PER_POINT = 0.1
GOOD = 12  # half of what a lucky summer brings; the best play gets there three times in four


class State(NamedTuple):
    """day: of those left, this one included. tank: water, 0..3. weather: one of `srf`. height: of the plants, 0..99."""

    day: int
    tank: int
    weather: str
    height: int


class Garden(Game):
    """A sentence that is no command is a day's rest and costs a point of height."""

    state: State

    def __init__(self, *, days: int):
        super().__init__()
        if not 1 <= days <= 40:
            raise EpisodeError(f"garden: days is {days}; wanted 1 to 40")
        self._days = days

    def choices(self) -> list[str]:
        return list(COMMANDS)

    def best(self) -> str:
        return optimal_action(self.state)

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        self._random = random
        self.state = State(self._days, 1, self._weather(), 0)
        return Observation(text=describe(self.state), success=False)

    def _act(self, text: str) -> Observation:
        day, tank, weather, height = self.state
        brought = outcomes(text, weather, tank)
        reached = np.cumsum([chance for chance, _, _ in brought])
        drawn = self._random.random()  # one draw a day, whatever is said
        _, water, growth = brought[min(int(np.searchsorted(reached, drawn, side="right")), len(brought) - 1)]
        height = min(max(height + growth, 0), HIGHEST)
        self.state = State(day - 1, water, self._weather(), height)
        if day > 1:
            return Observation(text=describe(self.state), success=False)
        return Observation(text=f"{height}!", reward=PER_POINT * height, done=True, success=height >= GOOD)

    def _weather(self) -> str:
        return WEATHERS[int(self._random.integers(len(WEATHERS)))]


def garden(*, days: int = 20) -> Garden:
    """One summer: a game of our own with sentences of 13 or 14 characters, 20 turns and one reward at the end.

    Reads: weather, water and height, as in `s2h17>`
    Says: one of six sentences, such as `water heavily`
    Pays: a tenth of the height, on the last day
    Ends: after `days` days
    Optimum: exact: 1.674 by dynamic programming (`optimal_value`, `optimal_action`)
    """
    return Garden(days=days)


def describe(state: State) -> str:
    """What the policy reads of a state, e.g. `s2h17>`: sun, 2 of water, plants 17 high."""
    return f"{state.weather}{state.tank}h{state.height}>"


@lru_cache(maxsize=1024)  # of what a policy may say there is no end
def outcomes(text: str, weather: str, tank: int) -> tuple[tuple[float, int, int], ...]:
    """What a day may bring: (probability, water after it, growth), the probabilities adding up to 1.

    Frost takes 2 of the height, with probability 3/4, from a bed that is not covered.
    """
    sun, rain, frost = (weather == letter for letter in WEATHERS)
    water, growth, chance = tank, 0, 1.0
    if text == "catch the rain" and rain:
        water, chance = min(tank + 2, TANK), 0.8
    elif text == "water lightly" and tank >= 1:
        water, growth, chance = tank - 1, (2 if sun else 1), 0.75
    elif text == "water heavily" and tank >= 2:
        water, growth, chance = tank - 2, (6 if sun else 1), 0.75
    elif text == "pull the weeds" and not frost:
        growth, chance = 1, 0.5
    elif text not in COMMANDS:
        growth = -1
    spent = water if water < tank else tank  # water that was poured out is gone, whether or not it helped
    results = [(chance, water, growth), (1 - chance, spent, 0)]
    if frost and text != "cover the bed":
        results = [(p * q, after, more - loss) for p, after, more in results for q, loss in ((0.75, 2), (0.25, 0))]
    return tuple(result for result in results if result[0] > 0)


def optimal_value(state: State) -> float:
    """The largest expected return from a state on: a tenth of the expected height on the last day."""
    return float(max(_worths(state)))


def optimal_action(state: State) -> str:
    """The first of the best commands, in the order of `COMMANDS`."""
    worths = _worths(state)
    return COMMANDS[worths.index(max(worths))]


def action_value(state: State, text: str) -> float:
    """The expected return of saying `text` and playing perfectly from then on."""
    return sum(
        chance * float(_before_weather(state.day - 1)[water][min(max(state.height + growth, 0), HIGHEST)])
        for chance, water, growth in outcomes(text, state.weather, state.tank)
    )


def _worths(state: State) -> list[float]:
    return [round(action_value(state, text), 12) for text in COMMANDS]


@cache
def _before_weather(days: int) -> np.ndarray:
    """V of (tank, height) with `days` days left, the weather of the first not yet seen."""
    heights = np.arange(HIGHEST + 1)
    if days == 0:
        return np.tile(PER_POINT * heights, (TANK + 1, 1))
    later = _before_weather(days - 1)
    values = np.zeros((TANK + 1, HIGHEST + 1))
    for tank in range(TANK + 1):
        for weather in WEATHERS:
            worths = [
                sum(p * later[water][np.clip(heights + growth, 0, HIGHEST)] for p, water, growth in brought)
                for brought in (outcomes(text, weather, tank) for text in COMMANDS)
            ]
            values[tank] += np.max(worths, axis=0) / len(WEATHERS)
    return values
