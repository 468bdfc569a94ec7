"""Gymnasium environments whose observations can be read and whose actions can be written, unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alignkit.environments.base import Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

SEEDS = 2**31
MALFORMED = "That is no action: {wanted}."


class Gymnasium:
    """One episode of a Gymnasium environment.

    make: gives a fresh one. Actions of a `Text` space are what the policy says; of a `Discrete` one its number, or its
    name where the environment has `action_names`. Observations are read as they print. What is no action costs nothing,
    is told the policy, and counts as `malformed` in the turn's channels.
    Raises EpisodeError for other spaces.
    """

    def __init__(self, make: Callable[[], Any]):
        from gymnasium import spaces

        self._one = make()
        space = self._one.action_space
        if not isinstance(space, spaces.Text | spaces.Discrete):
            raise EpisodeError(f"gymnasium: actions are {space}; wanted Text or Discrete: wrap the environment")
        self._discrete = isinstance(space, spaces.Discrete)
        self._names: list[str] = list(getattr(self._one.unwrapped, "action_names", ()))

    async def start(self, task: Task, seed: int) -> Observation:
        seen, info = self._one.reset(seed=seed % SEEDS)
        return Observation(text=str(seen), info=_told(info))

    async def step(self, text: str) -> Observation:
        action = self._action(text)
        if action is None:
            names = ", ".join(self._names)
            wanted = f"say one of {names}" if names else f"say a number, {self._one.action_space}"
            wanted = wanted if self._discrete else f"it does not fit {self._one.action_space}"
            return Observation(text=MALFORMED.format(wanted=wanted), info={"malformed": 1})
        seen, reward, terminated, truncated, info = self._one.step(action)
        return Observation(
            text=str(seen),
            reward=float(reward),
            done=bool(terminated or truncated),
            info={**_told(info), "truncated": float(bool(truncated))},
        )

    def close(self) -> None:
        """Ends it."""
        self._one.close()

    def _action(self, text: str) -> Any:
        if not self._discrete:
            return text if self._one.action_space.contains(text) else None
        said = text.strip()
        if said in self._names:
            return self._names.index(said) + int(self._one.action_space.start)
        try:
            number = int(said)
        except ValueError:
            return None
        return number if self._one.action_space.contains(number) else None


def gymnasium(*, id: str, options: Mapping[str, Any] | None = None) -> Gymnasium:
    """One episode of the environment that Gymnasium knows as `id` (`module:id` imports the module first).

    options: of `gymnasium.make`. Raises EpisodeError without the package, or for an unknown id.
    """
    try:
        import gymnasium as package
    except ModuleNotFoundError as error:
        raise EpisodeError("gymnasium: the package is missing; pip install gymnasium") from error

    def make() -> Any:
        try:
            return package.make(id, **(options or {}))
        except package.error.Error as error:
            raise EpisodeError(f"gymnasium: {str(error).strip()}") from error

    return Gymnasium(make)


def _told(info: Any) -> dict[str, Any]:
    """The numbers and words of its info."""
    told = info if isinstance(info, Mapping) else {}
    return {str(name): value for name, value in told.items() if isinstance(value, int | float | str)}
