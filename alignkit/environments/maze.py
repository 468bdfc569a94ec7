"""Walk through a fixed maze to a goal: `u` `d` `l` `r`, -1 a step, 0 for the step onto the goal, -4 for anything else.

The policy reads goal, position (row and column, one digit each) and the blocked directions, as in `5112ud>`. Modelled
on the fully observed maze of LMRL-Gym (arXiv 2311.18232), in few characters.
"""

from __future__ import annotations

from collections import deque
from functools import cache
from typing import NamedTuple

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.types.task import Task

LAYOUT = (
    "#######",
    "#...#.#",
    "#.#...#",
    "#.###.#",
    "#...#.#",
    "#.#...#",
    "#######",
)
MOVES = {"u": (-1, 0), "d": (1, 0), "l": (0, -1), "r": (0, 1)}
ILLEGAL = -4.0
Cell = tuple[int, int]
FREE: tuple[Cell, ...] = tuple(
    (row, column) for row, line in enumerate(LAYOUT) for column, letter in enumerate(line) if letter == "."
)


class State(NamedTuple):
    goal: Cell
    position: Cell


class Maze(Game):
    """Goal and first position are drawn from the free cells and never the same. It ends at the goal only."""

    state: State

    def choices(self) -> list[str]:
        return [move for move in MOVES if _step(self.state.position, move) != self.state.position]

    def best(self) -> str:
        return optimal_action(self.state)

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        goal, start = random.choice(len(FREE), size=2, replace=False)
        self.state = State(FREE[goal], FREE[start])
        return Observation(text=describe(self.state), success=False)

    def _act(self, text: str) -> Observation:
        if text not in MOVES:
            return Observation(text=describe(self.state), reward=ILLEGAL, success=False)
        goal = self.state.goal
        self.state = State(goal, _step(self.state.position, text))
        if self.state.position == goal:
            return Observation(text="!", reward=0.0, done=True, success=True)
        return Observation(text=describe(self.state), reward=-1.0, success=False)


def maze() -> Maze:
    """One walk.

    Reads: `5112ud>`: goal (5, 1), position (1, 2), walls above and below
    Says: `u`, `d`, `l` or `r`
    Pays: -1 a step, 0 onto the goal, -4 for anything else
    Ends: at the goal
    Optimum: exact, by shortest ways (`optimal_value`, `optimal_action`)
    """
    return Maze()


def describe(state: State) -> str:
    """What the policy reads of a state, e.g. `5112ud>`: goal (5, 1), position (1, 2), walls above and below."""
    walls = "".join(move for move in MOVES if _step(state.position, move) == state.position)
    return "".join(map(str, (*state.goal, *state.position))) + walls + ">"


def optimal_value(state: State) -> float:
    """The largest return (undiscounted): every step of a shortest way costs 1, but for the one that reaches the goal.

    It is 0 at the goal itself, where the episode is over.
    """
    return -max(0, _distances(state.goal)[state.position] - 1)


def optimal_action(state: State) -> str:
    """The first of the moves, in the order u d l r, that lead along a shortest way."""
    distances = _distances(state.goal)
    return min(MOVES, key=lambda move: distances[_step(state.position, move)])


def _step(position: Cell, move: str) -> Cell:
    """Where a move leads: a wall leaves one where one is."""
    row, column = position[0] + MOVES[move][0], position[1] + MOVES[move][1]
    return position if LAYOUT[row][column] == "#" else (row, column)


@cache
def _distances(goal: Cell) -> dict[Cell, int]:
    """Steps from every free cell to the goal."""
    distances, waiting = {goal: 0}, deque([goal])
    while waiting:
        cell = waiting.popleft()
        for move in MOVES:
            after = _step(cell, move)
            if after not in distances:
                distances[after] = distances[cell] + 1
                waiting.append(after)
    return distances
