"""Gymnasium's environments: text in and out, numbers by name, seeds, ends and what is no action."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from alignkit.environments.adapters.gymnasium import Gymnasium
from alignkit.environments.adapters.gymnasium import gymnasium as make_gymnasium
from alignkit.environments.base import Environment, Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

gymnasium = pytest.importorskip("gymnasium", reason="the extra `agents` is not installed")
TASK = Task(id="t", text="-")


class Guess(gymnasium.Env):
    """A word of one letter, named by the seed."""

    action_space = gymnasium.spaces.Text(max_length=3, charset="abc")
    observation_space = gymnasium.spaces.Text(max_length=9)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.word = "abc"[int(self.np_random.integers(3))]
        return "?", {"letters": 3}

    def step(self, action: str) -> Any:
        right = action == self.word
        return ("yes" if right else "no"), 1.0 if right else -0.5, right, False, {}


def played(one: Any, seed: int, *said: str) -> list[Observation]:
    async def play() -> list[Observation]:
        return [await one.start(TASK, seed), *[await one.step(text) for text in said]]

    return asyncio.run(play())


def test_text_goes_in_and_comes_out_and_the_same_seed_is_the_same_game():
    runs = [played(Gymnasium(Guess), 7, "a", "b", "c") for _ in range(2)]
    assert runs[0] == runs[1]
    assert sorted(seen.reward for seen in runs[0][1:]) == [-0.5, -0.5, 1.0]
    assert runs[0][0].info == {"letters": 3}
    assert isinstance(Gymnasium(Guess), Environment)


def test_what_is_no_action_is_told_and_counted_and_costs_nothing():
    seen = played(Gymnasium(Guess), 1, "xyz", "abca")
    assert [one.reward for one in seen[1:]] == [0.0, 0.0]
    assert all(one.info == {"malformed": 1} for one in seen[1:])
    assert "does not fit" in seen[1].text


def test_discrete_actions_are_numbers_and_cart_pole_ends():
    one = make_gymnasium(id="CartPole-v1")
    seen = played(one, 3, "left", "7", *["0"] * 12)
    assert [o.info.get("malformed") for o in seen[1:3]] == [1, 1]
    assert "Discrete(2)" in seen[1].text
    ended = [number for number, o in enumerate(seen) if o.done]
    assert 8 <= ended[0] - 2 <= 12, "a pole that is always pushed to one side falls after about ten pushes"
    assert seen[ended[0]].reward == 1.0
    one.close()


def test_other_spaces_and_unknown_names_are_refused_by_name():
    with pytest.raises(EpisodeError, match=r"actions are Box.*wanted Text or Discrete"):
        make_gymnasium(id="Pendulum-v1")
    with pytest.raises(EpisodeError, match="NoSuchGame"):
        make_gymnasium(id="NoSuchGame-v0")
