"""Guess a secret number; `<` means that it is smaller, `>` that it is larger. -1 for every wrong guess.

The policy reads `?`, then one of `<` `>` `!` (that was no number of the range) after each guess.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

LONGEST = 100  # digits that are read: Python reads no more than 4,300


class State(NamedTuple):
    """The secret is one of low..high, all equally likely, and `left` guesses are left."""

    low: int
    high: int
    left: int


class GuessNumber(Game):
    """The secret is uniform on 0..numbers-1; the episode ends with the right guess or after `guesses` guesses."""

    def __init__(self, *, numbers: int, guesses: int):
        super().__init__()
        if numbers < 2 or guesses < 1:
            raise EpisodeError(f"guess_number: wanted numbers >= 2 and guesses >= 1; got {numbers} and {guesses}")
        self._numbers = numbers
        self.state = State(0, numbers - 1, guesses)

    @property
    def privileged(self) -> str:
        return f"={self._secret}"

    def choices(self) -> list[str]:
        return [str(number) for number in range(self._numbers)]

    def best(self) -> str:
        return str(optimal_action(self.state))

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        self._secret = int(random.integers(self._numbers))
        return Observation(text="?", success=False)

    def _act(self, text: str) -> Observation:
        low, high, left = self.state
        short = len(text) <= LONGEST and text.isascii() and text.isdecimal()
        legal = short and int(text) < self._numbers
        guess = int(text) if legal else None
        if guess == self._secret:
            return Observation(text="=", reward=0.0, done=True, success=True)
        answer = "!"
        if guess is not None and guess < self._secret:
            low, answer = max(low, guess + 1), ">"
        elif guess is not None:
            high, answer = min(high, guess - 1), "<"
        self.state = State(low, high, left - 1)
        return Observation(text=answer, reward=-1.0, done=left == 1, success=False)


def guess_number(*, numbers: int = 20, guesses: int = 8) -> GuessNumber:
    """One game.

    Reads: `?`, then `<` (it is smaller), `>`, or `!` (no number of the range)
    Says: a number
    Pays: -1 a wrong guess, 0 for the right one
    Ends: right, or after `guesses` guesses
    Optimum: exact, by dynamic programming (`optimal_value`, `optimal_action`)
    """
    return GuessNumber(numbers=numbers, guesses=guesses)


def optimal_value(state: State) -> float:
    """The largest expected return (undiscounted): minus the expected number of wrong guesses under perfect play."""
    return _solve(state.high - state.low + 1, state.left)[0]


def optimal_action(state: State) -> int:
    """The smallest of the best guesses."""
    return state.low + _solve(state.high - state.low + 1, state.left)[1]


@cache
def _solve(size: int, left: int) -> tuple[float, int]:
    """(value, best guess counted from the lowest candidate) with `size` candidates and `left` guesses."""
    if size == 0 or left == 0:
        return 0.0, 0
    values = []
    for guess in range(size):
        below, above = guess, size - 1 - guess
        wrong = below * (_solve(below, left - 1)[0] - 1) + above * (_solve(above, left - 1)[0] - 1)
        values.append(wrong / size)
    best = max(values)
    return best, values.index(best)
