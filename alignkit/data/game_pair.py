"""Two games of guess_number for one hidden number."""

from __future__ import annotations

from itertools import product
from typing import Any

from alignkit.environments.behaviour import play
from alignkit.environments.guess_number import GuessNumber
from alignkit.errors import DataError
from alignkit.types.seeds import child

SLIPS = ["".join(each) for size in range(3) for each in product("?<>=!", repeat=size)]
TRIES = 100  # games for one hidden number, until two of them end differently


class _Slips(GuessNumber):
    """Its random players say one time in four what is no number: of what it never read a model may think anything."""

    def choices(self) -> list[str]:
        numbers = super().choices()
        return numbers * (3 * len(SLIPS) // len(numbers) or 1) + SLIPS


def game_pair(numbers: int, guesses: int, seed: int) -> dict[str, Any]:
    """A row: two games of mixed players that ended differently, the better and the worse, and the hidden number.

    About one random move in four is no number. Raises DataError where TRIES games all end alike.
    """
    ends: dict[float, list[dict[str, Any]]] = {}
    for player in range(TRIES):
        game = _Slips(numbers=numbers, guesses=guesses)
        turns = play(game, seed=seed, behaviour="mixed", max_turns=guesses, player=child(seed, "player", player))
        ends.setdefault(sum(turn["reward"] for turn in turns), turns)
        if len(ends) == 2:
            sides = {"chosen_turns": ends[max(ends)], "rejected_turns": ends[min(ends)]}
            return {"prompt": turns[0]["observation"], "privileged": game.privileged, **sides}
    raise DataError(f"generator:guess_number_pairs: {TRIES} games ended alike; allow more guesses")
