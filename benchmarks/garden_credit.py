"""What an exact critic could do in the garden: how well one game's advantages tell its sentences apart.

python -m benchmarks.garden_credit [--games 1500]

The player says the best sentence half of the time and any of the six else. Its values are computed exactly; for each
estimator of the advantage the correlation with the true one, over all days, the first five and the last five.
"""

from __future__ import annotations

import argparse
from functools import cache

import numpy as np

from alignkit.environments.garden import COMMANDS, HIGHEST, PER_POINT, WEATHERS, State, optimal_action, outcomes

DAYS, RANDOM = 20, 0.5
PER_TURN = {
    "return less V": 1.0,
    "TD, lambda 0.9 a turn": 0.9,
    "GAE, lambda 0.95 a token of 14.5": 0.95**14.5,
    "TD(0)": 0.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=1500)
    print(table(parser.parse_args().games))


def table(games: int) -> str:
    """Markdown: a row an estimator."""
    random = np.random.Generator(np.random.Philox(key=0))
    played = [_game(random) for _ in range(games)]
    true = np.array([[_said(state, text) - _value(state) for state, text in path] for path, _ in played])
    values = np.array([[*(_value(state) for state, _ in path), paid] for path, paid in played])
    rows = ["| advantage by exact values | all days | first 5 | last 5 |", "|---|---|---|---|"]
    for name, decay in PER_TURN.items():
        told = _advantages(values, decay)
        spans = (slice(None), slice(0, 5), slice(15, None))
        shown = [f"{np.corrcoef(true[:, span].ravel(), told[:, span].ravel())[0, 1]:.2f}" for span in spans]
        rows.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(rows)


def _advantages(values: np.ndarray, decay: float) -> np.ndarray:
    """GAE over turns, undiscounted: A_t = V_(t+1) - V_t + decay A_(t+1); the last V is what was paid."""
    steps = np.diff(values, axis=1)
    told, later = np.zeros_like(steps), np.zeros(len(steps))
    for day in reversed(range(steps.shape[1])):
        later = told[:, day] = steps[:, day] + decay * later
    return told


def _policy(state: State) -> dict[str, float]:
    best = optimal_action(state)
    return {text: RANDOM / len(COMMANDS) + (1 - RANDOM) * (text == best) for text in COMMANDS}


@cache
def _value(state: State) -> float:
    if state.day == 0:
        return PER_POINT * state.height
    return sum(chance * _said(state, text) for text, chance in _policy(state).items())


@cache
def _said(state: State, text: str) -> float:
    return sum(
        chance * sum(_value(_after(state, water, growth, weather)) for weather in WEATHERS) / len(WEATHERS)
        for chance, water, growth in outcomes(text, state.weather, state.tank)
    )


def _after(state: State, water: int, growth: int, weather: str) -> State:
    return State(state.day - 1, water, weather, min(max(state.height + growth, 0), HIGHEST))


def _game(random: np.random.Generator) -> tuple[list[tuple[State, str]], float]:
    state, path = State(DAYS, 1, WEATHERS[random.integers(len(WEATHERS))], 0), []
    while state.day:
        policy = _policy(state)
        text = COMMANDS[random.choice(len(COMMANDS), p=list(policy.values()))]
        path.append((state, text))
        brought = outcomes(text, state.weather, state.tank)
        _, water, growth = brought[random.choice(len(brought), p=[one[0] for one in brought])]
        state = _after(state, water, growth, WEATHERS[random.integers(len(WEATHERS))])
    return path, PER_POINT * state.height


if __name__ == "__main__":
    main()
