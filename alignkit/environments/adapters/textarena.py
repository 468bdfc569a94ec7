"""TextArena's games, unchanged: one player, or a scripted opponent beside the policy."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from alignkit.environments.base import Observation
from alignkit.errors import EpisodeError
from alignkit.recipe.lookup.find import find, load
from alignkit.types.seeds import child
from alignkit.types.task import Task

RAW = "-raw"
"""TextArena's name for a game that shows what is new instead of all that was said."""
Opponent = Callable[[str], str]


class TextArena:
    """One game. The policy is player 0; reward is what the game says at its end, and success a reward of 1 or more.

    make: gives a fresh game. opponent: what the others say to what they read; None: there are no others.
    TextArena draws from Python's global generator: each episode lends it a state of its own, so that a seed is a game.
    """

    def __init__(self, make: Callable[[], Any], opponent: Opponent | None = None):
        self._one, self._opponent = make(), opponent
        self._random = random.Random(0).getstate()

    async def start(self, task: Task, seed: int) -> Observation:
        self._random = random.Random(child(seed, "textarena")).getstate()
        with self._own_random():
            try:
                self._one.reset(num_players=1 if self._opponent is None else 2, seed=seed % 2**31)
            except AssertionError as error:  # how TextArena refuses a number of players
                raise EpisodeError(f"textarena: {error or 'the game wants more players'}; set `opponent`") from error
            return self._until_ours(done=False)

    async def step(self, text: str) -> Observation:
        with self._own_random():
            done, _ = self._one.step(action=text)
            return self._until_ours(done=done)

    def _until_ours(self, *, done: bool) -> Observation:
        """Lets the opponent move until it is the policy's turn, or over."""
        while not done:
            player, seen = self._one.get_observation()
            if player == 0:
                return Observation(text=_read(seen, player))
            if self._opponent is None:
                raise EpisodeError(f"textarena: it is player {player}'s turn, and there is none; set `opponent`")
            done, _ = self._one.step(action=self._opponent(_read(seen, player)))
        rewards, told = self._one.close()
        reward = float(rewards.get(0, 0.0))
        own = told.get(0, {}) if isinstance(told, Mapping) else {}
        numbers = {str(k): v for k, v in own.items() if isinstance(v, int | float | str)}
        return Observation(
            text=str(own.get("reason") or ""), reward=reward, done=True, success=reward >= 1, info=numbers
        )

    @contextmanager
    def _own_random(self) -> Generator[None]:
        lent = random.getstate()
        random.setstate(self._random)
        try:
            yield
        finally:
            self._random = random.getstate()
            random.setstate(lent)


def textarena(*, id: str, options: Mapping[str, Any] | None = None, opponent: str | None = None) -> TextArena:
    """One game that TextArena knows as `id`; options: of `textarena.make`.

    opponent: a function from what the other player reads to what it says, as `./file.py:name` or `package.module:name`.
    Raises EpisodeError without the package, or for an unknown id.
    """
    try:
        import textarena as package
    except ModuleNotFoundError as error:
        raise EpisodeError("textarena: the package is missing; pip install textarena") from error

    def make() -> Any:
        for name in (id + RAW, id):
            try:
                return package.make(name, **(options or {}))
            except ValueError as error:
                unknown = error
        raise EpisodeError(f"textarena: {unknown}")

    says: Any = load(find("environments", opponent)) if opponent else None
    return TextArena(make, says)


def _read(seen: Any, player: int) -> str:
    """What a player reads anew: all but its own words, which some games repeat as theirs."""
    if isinstance(seen, str):
        return seen
    return "\n".join(str(message) for author, message, kind in seen if author != player and not _echo(author, kind))


def _echo(author: int, kind: Any) -> bool:
    return author < 0 and getattr(kind, "name", "") == "PLAYER_ACTION"
