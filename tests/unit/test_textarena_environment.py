"""TextArena's games as they are: what is new is read, seeds are games of their own, an opponent moves in between."""

from __future__ import annotations

import asyncio
import random

import pytest

from alignkit.environments.adapters.textarena import TextArena
from alignkit.environments.adapters.textarena import textarena as make_textarena
from alignkit.environments.base import Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

package = pytest.importorskip("textarena", reason="the extra `agents` is not installed")
TASK = Task(id="t", text="-")
GUESS = "GuessTheNumber-v0"


def played(one: TextArena, seed: int, *said: str) -> list[Observation]:
    async def play() -> list[Observation]:
        return [await one.start(TASK, seed), *[await one.step(text) for text in said]]

    return asyncio.run(play())


def bisected(seed: int) -> tuple[int, list[Observation]]:
    """The secret number of a game, found by halving, and what was read on the way."""

    async def play() -> tuple[int, list[Observation]]:
        one = make_textarena(id=GUESS)
        seen = [await one.start(TASK, seed)]
        low, high = 1, 20
        while not seen[-1].done:
            guess = (low + high) // 2
            seen.append(await one.step(f"[{guess}]"))
            low, high = (guess + 1, high) if "higher" in seen[-1].text else (low, guess - 1)
        return guess, seen

    return asyncio.run(play())


def test_halving_finds_the_number_and_is_paid_one_for_it():
    secret, seen = bisected(3)
    assert seen[-1].reward == 1.0
    assert seen[-1].success is True
    assert 1 <= secret <= 20
    assert len(seen) <= 6, "20 numbers are halved at most 5 times"
    assert all(one.reward == 0.0 for one in seen[:-1])
    assert "Guess The Number" not in seen[1].text, "what was read before is not read again"


def test_a_seed_is_a_game_and_leaves_pythons_own_generator_alone():
    random.seed(11)
    before = random.getstate()
    secrets = [bisected(seed)[0] for seed in (1, 2, 3, 4, 5, 1, 2, 3, 4, 5)]
    assert random.getstate() == before
    assert secrets[:5] == secrets[5:]
    assert len(set(secrets[:5])) > 1


def test_two_games_at_once_do_not_draw_from_one_another():
    alone = bisected(4)[0]

    async def together() -> int:
        one, other = make_textarena(id=GUESS), make_textarena(id=GUESS)
        await one.start(TASK, 4)
        await other.start(TASK, 9)
        seen = await one.step(f"[{alone}]")
        return int(seen.done)

    assert asyncio.run(together()) == 1


def first_free(seen: str) -> str:
    """Takes the first cell that the rules of tic-tac-toe's board still show."""
    import re

    cells = re.findall(r"'\[(\d)\]'", seen) or re.findall(r"\[(\d)\]", seen)
    return f"[{cells[0]}]"


def test_an_opponent_moves_between_the_policys_turns_and_one_is_wanted_where_the_game_has_two():
    async def start(opponent: object) -> Observation:
        return await TextArena(lambda: package.make("TicTacToe-v0-raw"), opponent).start(TASK, 1)

    with pytest.raises(EpisodeError, match="set `opponent`"):
        asyncio.run(start(None))
    seen = played(TextArena(lambda: package.make("TicTacToe-v0-raw"), first_free), 1, "[4]")
    assert not seen[1].done
    assert "O" in seen[1].text, "the opponent has moved by the time the policy reads again"


def test_an_unknown_game_is_refused_by_name():
    with pytest.raises(EpisodeError, match="NoSuchGame"):
        make_textarena(id="NoSuchGame-v0")
