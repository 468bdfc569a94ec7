"""LMRL-Gym's maze: two T's in a row, 26 free cells, one goal; `move up` and so on, -1 a move, 0 onto the goal.

Observations, actions and rewards as in arXiv 2311.18232 with `standard_reward`: a wall leaves one where one is and
costs 1, an utterance that is no move costs 4. Not repeated from the reference (abdulhaim/LMRL-Gym at 911d726b5b37):
there the utterance after the last allowed one is paid -1 without being played, so 100 moves cost 101; and an illegal
utterance cuts another history than a legal one. Each has a test.
"""

from __future__ import annotations

from collections import deque
from functools import cache

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

LAYOUT = (
    "#############",
    "#.....#.....#",
    "###.#####.###",
    "###.#####.###",
    "###.#####.###",
    "###.......###",
    "######.######",
    "######.######",
    "######.######",
    "#############",
)
GOAL = (8, 6)
MOVES = {"move up": (-1, 0), "move down": (1, 0), "move left": (0, -1), "move right": (0, 1)}
SIDES = {"to your right": (0, 1), "to your left": (0, -1), "above you": (-1, 0), "below you": (1, 0)}
ILLEGAL = -4.0
Cell = tuple[int, int]
Belief = tuple[Cell, ...]  # a cell for each first cell that is still possible, sorted; cells that met stand twice
FREE: tuple[Cell, ...] = tuple(
    (row, column) for row, line in enumerate(LAYOUT) for column, letter in enumerate(line) if letter == "."
)
STARTS = tuple(cell for cell in FREE if cell != GOAL)


class DoubleTMaze(Game):
    """position: where one is. belief: the cells where one may be, by what was seen; the position alone where it is
    told."""

    position: Cell
    belief: Belief

    def __init__(self, *, observed: str, max_steps: int):
        super().__init__()
        if observed not in ("full", "partial") or max_steps < 1:
            raise EpisodeError(
                f"double_t_maze: wanted observed full or partial and max_steps >= 1; got {observed!r} and {max_steps}"
            )
        self._full, self._left = observed == "full", max_steps

    def choices(self) -> list[str]:
        return list(MOVES)

    def best(self) -> str:
        return optimal_action(self.belief)

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        self.position = STARTS[int(random.integers(len(STARTS)))]
        self.belief = _alike(STARTS, self.position, self._full)
        return Observation(text=self._described(), success=False)

    def _act(self, text: str) -> Observation:
        move = text.rstrip("\n")
        self._left -= 1
        if move in MOVES:
            self.position = after(self.position, move)
            if self.position == GOAL:
                return Observation(text="Success\n", done=True, success=True)
            moved = [cell for cell in (after(cell, move) for cell in self.belief) if cell != GOAL]
            self.belief = _alike(moved, self.position, self._full)
        over = self._left == 0
        reward = -1.0 if move in MOVES else ILLEGAL
        return Observation(text="Failure\n" if over else self._described(), reward=reward, done=over, success=False)

    def _described(self) -> str:
        return describe(self.position) if self._full else f"{walls(self.position)}\n"


def double_t_maze(*, observed: str = "full", max_steps: int = 100) -> DoubleTMaze:
    """One walk from one of the 25 other cells.

    Reads: goal, position and walls in a sentence each; with `observed: partial` the walls only
    Says: `move up`, `move down`, `move left` or `move right`
    Pays: -1 a move, 0 onto the goal, -4 for anything else
    Ends: at the goal, or after `max_steps` utterances
    Optimum: exact: -6.84 by shortest ways, partially observed -7.24 by dynamic programming (`optimal_mean`)
    """
    return DoubleTMaze(observed=observed, max_steps=max_steps)


def describe(position: Cell) -> str:
    """What is read where the position is told."""
    goal, here = (f"{row}, {column}" for row, column in (map(_spelled, GOAL), map(_spelled, position)))
    return f"The goal is at position {goal}. Your current position is at position {here}. {walls(position)}\n"


def walls(position: Cell) -> str:
    """A sentence on the walls around a cell, in the order right, left, above, below."""
    row, column = position
    beside = [side for side, (down, right) in SIDES.items() if LAYOUT[row + down][column + right] == "#"]
    if len(beside) > 1:
        return f"There are walls {', '.join(beside)}."
    return f"There is a wall {beside[0]}." if beside else "There are no walls near you."


def after(position: Cell, move: str) -> Cell:
    """Where a move leads: a wall leaves one where one is."""
    row, column = position[0] + MOVES[move][0], position[1] + MOVES[move][1]
    return position if LAYOUT[row][column] == "#" else (row, column)


def optimal_mean(observed: str) -> float:
    """The largest mean return (undiscounted, without a limit of steps) over all starts."""
    full = observed == "full"
    return sum(optimal_value(_alike(STARTS, start, full)) for start in STARTS) / len(STARTS)


def optimal_value(belief: Belief) -> float:
    """The largest expected return when every cell of `belief` is as likely."""
    return -_costs()[belief]


def optimal_action(belief: Belief) -> str:
    """The first of the best moves, in the order of MOVES."""
    costs = _costs()
    return min(MOVES, key=lambda move: round(_expected(belief, move, costs), 9))


@cache
def _costs() -> dict[Belief, float]:
    """Expected cost of best play from every belief that can come up, by value iteration until nothing changes.

    V(b) = min over moves of the sum over observations o of P(o | b, move) (1 + V(b after move and o)), and 0 for the
    share of the belief that comes to the goal.
    """
    begun = {_alike(STARTS, start, full) for start in STARTS for full in (True, False)}
    known, waiting = set(begun), deque(begun)
    while waiting:
        belief = waiting.popleft()
        for move in MOVES:
            for later in _split(belief, move):
                if later not in known:
                    known.add(later)
                    waiting.append(later)
    costs = dict.fromkeys(known, 0.0)
    while True:
        new = {belief: min(_expected(belief, move, costs) for move in MOVES) for belief in known}
        if max(abs(new[belief] - costs[belief]) for belief in known) < 1e-12:
            return new
        costs = new


def _expected(belief: Belief, move: str, costs: dict[Belief, float]) -> float:
    return sum(len(later) * (1 + costs[later]) for later in _split(belief, move)) / len(belief)


@cache
def _split(belief: Belief, move: str) -> tuple[Belief, ...]:
    """What may be believed after a move, by what is seen; cells that reach the goal are left out."""
    moved = [cell for cell in (after(cell, move) for cell in belief) if cell != GOAL]
    return tuple({_alike(moved, cell, full=False) for cell in moved})


def _alike(cells: list[Cell] | tuple[Cell, ...], position: Cell, full: bool) -> Belief:
    """Those of the cells that look as the position does."""
    return (position,) if full else tuple(sorted(cell for cell in cells if walls(cell) == walls(position)))


def _spelled(number: int) -> str:
    return " ".join(str(number))
