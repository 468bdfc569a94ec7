"""Guess a number from 1 to 1024 in 13 guesses, said as `<answer>512</answer>`: PipelineRL's public example.

Its rewards, and its split of the numbers into those to train on and those held out (pipelinerl/domains/guessing of
ServiceNow/PipelineRL). Best play needs 9.01 guesses on average. Two things differ: there every later observation lists
all guesses so far and ends in `<wrong output>` although the output was right; here an observation answers the last
guess only, since the context keeps the others, and says what was the matter.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

FORMAT = re.compile(r"<answer>([0-9]{1,9})</answer>")
STEP = 191  # odd, so that its multiples visit every number of a power of two


class GuessANumber(Game):
    """The number is drawn from the numbers of its split; a guess out of range is answered like any other wrong one."""

    def __init__(self, *, numbers: int, guesses: int, split: str):
        super().__init__()
        if numbers < 2 or guesses < 1 or numbers & (numbers - 1):
            raise EpisodeError(
                f"guess_a_number: wanted numbers 2, 4, 8, ... and guesses >= 1; got {numbers}, {guesses}"
            )
        if split not in ("all", "train", "test"):
            raise EpisodeError(f"guess_a_number: split is {split!r}; wanted all, train or test")
        self._numbers, self._guesses = numbers, guesses
        self._pool = targets(numbers, split)
        self._low, self._high, self._said = 1, numbers, 0

    def choices(self) -> list[str]:
        return [f"<answer>{number}</answer>" for number in range(1, self._numbers + 1)]

    def best(self) -> str:
        return f"<answer>{(self._low + self._high) // 2}</answer>"

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        self._secret = self._pool[int(random.integers(len(self._pool)))]
        text = (
            f"I have chosen a number from 1 to {self._numbers}. Guess it, with your guess written as "
            "<answer>number</answer>. I will say whether my number is lower or higher.\n"
        )
        return Observation(text=text, success=False)

    def _act(self, text: str) -> Observation:
        found = FORMAT.search(text)
        turn, self._said = self._said, self._said + 1
        if found is None:
            return Observation(text="That has no answer.\n", reward=-2 + turn / 10, done=True, success=False)
        guess = int(found[1])
        if guess == self._secret:
            return Observation(text="Right.\n", reward=2 - turn / 10, done=True, success=True)
        if guess < self._secret:
            self._low, relation = max(self._low, guess + 1), "higher"
        else:
            self._high, relation = min(self._high, guess - 1), "lower"
        over = self._said == self._guesses
        return Observation(text=f"My number is {relation} than {guess}.\n", done=over, success=False)


def guess_a_number(*, numbers: int = 1024, guesses: int = 13, split: str = "all") -> GuessANumber:
    """One game.

    Reads: `My number is higher than 512.`
    Says: a text with `<answer>512</answer>`
    Pays: 2 less 0.1 a guess before it for the right one; -2 and 0.1 a guess before it for a text without an answer
    Ends: right, without an answer, or after `guesses` guesses, which pay nothing
    Optimum: exact, by dynamic programming: `fewest_guesses` (9.01 on average, which pays 1.199)
    """
    return GuessANumber(numbers=numbers, guesses=guesses, split=split)


def targets(numbers: int, split: str) -> tuple[int, ...]:
    """A split in PipelineRL's order: even multiples of 191, modulo `numbers`, to train on, odd ones to test."""
    order = {"all": (0, 1), "train": (0,), "test": (1,)}[split]
    return tuple((2 * index + odd) * STEP % numbers + 1 for odd in order for index in range(numbers // 2))


@cache
def fewest_guesses(size: int) -> int:
    """The least sum, over `size` equally likely numbers, of the guesses until each is found: f(0) = 0,
    f(n) = n + min over a + b = n - 1 of f(a) + f(b). Divided by `size` it is the mean of best play without a limit.
    """
    if size == 0:
        return 0
    # f is convex, so that the even split is the best one; the tests compare it with the minimum over all splits
    return size + fewest_guesses((size - 1) // 2) + fewest_guesses(size // 2)
