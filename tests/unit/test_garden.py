"""The garden by dynamic programming and by hand, PipelineRL's guess-a-number, and games of any environment as rows."""

from __future__ import annotations

import asyncio
from functools import cache

import numpy as np
import pytest

from alignkit.data.generators import generate
from alignkit.environments import garden as growing
from alignkit.environments import guess_a_number as guessing
from alignkit.environments.behaviour import play
from alignkit.environments.garden import State
from alignkit.errors import ContentError, DataError
from alignkit.types.task import Task
from benchmarks import garden_credit

TASK = Task(id="t", text="?")


@cache
def by_enumeration(state: State) -> float:
    if state.day == 0:
        return 0.1 * state.height
    return max(_worth(state, text) for text in growing.COMMANDS)


def _worth(state: State, text: str) -> float:
    total = 0.0
    for chance, water, growth in growing.outcomes(text, state.weather, state.tank):
        height = min(max(state.height + growth, 0), 99)
        later = [by_enumeration(State(state.day - 1, water, weather, height)) for weather in growing.WEATHERS]
        total += chance * sum(later) / 3
    return total


@pytest.mark.parametrize("state", [State(1, 2, "s", 5), State(4, 0, "r", 0), State(5, 3, "f", 1), State(6, 1, "s", 97)])
def test_the_garden_s_values_are_those_of_enumerating_every_day(state):
    assert growing.optimal_value(state) == pytest.approx(by_enumeration(state))
    assert _worth(state, growing.optimal_action(state)) == pytest.approx(by_enumeration(state))


def test_the_last_day_by_hand():
    # in the sun, two of water: 6 higher with probability 3/4; in frost 2 are lost with 3/4, unless the bed is covered
    assert growing.action_value(State(1, 2, "s", 10), "water heavily") == pytest.approx(0.1 * (10 + 4.5))
    assert growing.action_value(State(1, 2, "f", 10), "cover the bed") == pytest.approx(1.0)
    assert growing.action_value(State(1, 2, "f", 10), "pull the weeds") == pytest.approx(0.1 * 8.5)
    assert growing.action_value(State(1, 0, "s", 10), "say what?") == pytest.approx(0.1 * 9)
    assert growing.action_value(State(1, 0, "f", 0), "rest for a day") == 0  # nothing grows below the ground


def test_water_is_caught_days_before_it_pays():
    state = State(10, 0, "r", 0)
    worths = {text: growing.action_value(state, text) for text in growing.COMMANDS}
    assert growing.optimal_action(state) == "catch the rain"
    assert worths["catch the rain"] > max(worth for text, worth in worths.items() if text != "catch the rain") + 0.1


def test_expert_play_of_20_days_earns_its_value_and_random_play_a_twentieth_of_it():
    first = np.mean([growing.optimal_value(State(20, 1, weather, 0)) for weather in growing.WEATHERS])
    assert first == pytest.approx(1.6736, abs=1e-4)
    expert = [play(growing.garden(), seed=seed, behaviour="expert", max_turns=20)[-1]["reward"] for seed in range(100)]
    assert np.mean(expert) == pytest.approx(first, abs=3 * 0.63 / 100**0.5)
    random = [play(growing.garden(), seed=seed, behaviour="random", max_turns=20)[-1]["reward"] for seed in range(100)]
    assert np.mean(random) < first / 15


def test_a_game_of_the_garden_pays_on_its_last_day_only_and_its_sentences_are_of_13_characters_and_more():
    turns = play(growing.garden(), seed=1, behaviour="mixed", max_turns=20)
    assert [turn["reward"] for turn in turns[:-1]] == [0.0] * 19
    assert {len(text) for text in growing.COMMANDS} == {13, 14}


def test_with_exact_values_one_step_tells_sentences_apart_and_the_return_hardly_does():
    rows = [line.split("|")[1:3] for line in garden_credit.table(60).splitlines()[2:]]
    told = {name.strip(): float(value) for name, value in rows}
    assert told["TD(0)"] > told["GAE, lambda 0.95 a token of 14.5"] > told["TD, lambda 0.9 a turn"] + 0.1
    assert told["TD(0)"] > 0.5 > 0.25 > told["return less V"] > 0


def test_probabilities_of_a_day_add_up_to_one():
    for text in (*growing.COMMANDS, "no command"):
        for weather in growing.WEATHERS:
            for tank in range(4):
                assert sum(chance for chance, _, _ in growing.outcomes(text, weather, tank)) == pytest.approx(1)


def test_best_play_of_1024_numbers_needs_9_01_guesses_on_average():
    assert guessing.fewest_guesses(1024) / 1024 == pytest.approx(9.01, abs=0.005)

    @cache
    def brute(size: int) -> int:
        return 0 if size == 0 else size + min(brute(a) + brute(size - 1 - a) for a in range(size))

    assert [guessing.fewest_guesses(size) for size in range(60)] == [brute(size) for size in range(60)]


def test_the_expert_finds_every_number_in_that_mean_and_never_needs_more_than_11():
    guesses = {}
    for secret in range(1, 1025):
        low, high, count = 1, 1024, 1
        while (guess := (low + high) // 2) != secret:
            low, high, count = (guess + 1, high, count + 1) if guess < secret else (low, guess - 1, count + 1)
        guesses[secret] = count
    assert sum(guesses.values()) == guessing.fewest_guesses(1024)
    assert max(guesses.values()) == 11
    for seed in range(20):
        game = guessing.guess_a_number()
        turns = play(game, seed=seed, behaviour="expert", max_turns=13)
        assert turns[-1]["reward"] == pytest.approx(2 - (len(turns) - 1) / 10)
        assert len(turns) == guesses[game._secret]


def test_a_text_without_an_answer_ends_the_game_and_a_later_one_costs_less():
    async def talk(*said: str):
        game = guessing.guess_a_number()
        await game.start(TASK, 3)
        return [await game.step(text) for text in said]

    [seen] = asyncio.run(talk("512"))
    assert (seen.reward, seen.done) == (-2, True)
    seen = asyncio.run(talk("<answer>0</answer>", "<answer>2000</answer>", "hm"))
    assert [one.text for one in seen[:2]] == ["My number is higher than 0.\n", "My number is lower than 2000.\n"]
    assert (seen[2].reward, seen[2].done) == (-1.8, True)


def test_the_splits_of_the_numbers_are_halves_without_a_number_in_common():
    train, test = (set(guessing.targets(1024, split)) for split in ("train", "test"))
    assert (len(train), len(test), train & test) == (512, 512, set())
    assert train | test == set(range(1, 1025))
    assert guessing.targets(1024, "train")[:3] == (1, 383, 765)


def test_any_environment_that_knows_its_best_move_gives_rows_to_learn_from():
    options = {"environment": "guess_a_number", "options": {"numbers": 16}, "max_turns": 6, "count": 4}
    rows = generate("games", options, split="train", seed=0)
    assert len(rows) == 4
    assert all(turn["action"].startswith("<answer>") for row in rows for turn in row["turns"])
    with pytest.raises(ContentError, match="no option 'number'"):
        generate("games", options | {"options": {"number": 3}}, split="train", seed=0)
    with pytest.raises(DataError, match="options is 3; wanted a mapping"):
        generate("games", options | {"options": 3}, split="train", seed=0)
