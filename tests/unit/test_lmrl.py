"""The environments of LMRL-Gym: exact optima by exhaustive play, and what the reference gets wrong."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest

from alignkit.environments.base import Environment, Observation
from alignkit.environments.behaviour import play
from alignkit.environments.lmrl import (
    anchors,
    car_dealer,
    double_t_maze,
    guess_city,
    text_nav,
    twenty_questions,
    wordle,
)
from alignkit.environments.lmrl.data_files import shared_file
from alignkit.errors import EpisodeError
from alignkit.recipe.lookup.data_file import data_file
from alignkit.types.task import Task

TASK = Task(id="t", text="?")
needs_data = pytest.mark.skipif(
    data_file("multiturn", None) is None, reason="no folder multiturn in the data's folder; set ALIGNKIT_DATA"
)


def talk(game: Environment, seed: int, *said: str) -> list[Observation]:
    async def run() -> list[Observation]:
        return [await game.start(TASK, seed), *[await game.step(text) for text in said]]

    return asyncio.run(run())


def test_the_published_anchor_of_the_observed_maze_is_its_optimum_and_that_of_the_unobserved_one_is_not():
    assert double_t_maze.optimal_mean("full") == pytest.approx(-6.84)
    assert double_t_maze.optimal_mean("partial") == pytest.approx(-7.24)
    assert anchors.normalised_score("double_t_maze, full", double_t_maze.optimal_mean("full")) == pytest.approx(100)
    assert anchors.normalised_score("double_t_maze, partial", double_t_maze.optimal_mean("partial")) > 115


def test_scores_are_linear_between_the_anchors_and_beyond_and_absent_without_them():
    score = anchors.normalised_score
    assert [score("double_t_maze, full", value) for value in (-101, -92, -83)] == [0, 25, 50]
    assert score("endgames", 0.586) == 50
    assert score("endgames", 1) == 100
    assert score("endgames", -22.8) < -600  # illegal moves cost 1 each: the published least is none
    assert score("wordle", -2.0) is None


@pytest.mark.parametrize("observed", ["full", "partial"])
def test_the_expert_in_the_maze_earns_what_dynamic_programming_says_from_every_start(observed):
    values, earned = {}, {}
    for seed in range(150):
        game = double_t_maze.double_t_maze(observed=observed)
        talk(game, seed)
        start, belief = game.position, game.belief
        values.setdefault(belief, {})[start] = double_t_maze.optimal_value(belief)
        again = play(double_t_maze.double_t_maze(observed=observed), seed=seed, behaviour="expert", max_turns=100)
        earned[start] = sum(turn["reward"] for turn in again)
    assert len(earned) == 25
    for belief, starts in values.items():
        assert np.mean([earned[start] for start in belief]) == pytest.approx(next(iter(starts.values())))


def test_a_hundred_moves_of_the_maze_cost_a_hundred_and_the_last_one_is_played():
    seen = talk(double_t_maze.double_t_maze(max_steps=100), 0, *["move up"] * 100)
    assert sum(one.reward for one in seen) == -100  # the reference pays -101 and does not play the last
    assert [one.done for one in seen] == [False] * 100 + [True]
    near = next(seed for seed in range(200) if _starts_at(seed, (7, 6)))
    assert talk(double_t_maze.double_t_maze(max_steps=1), near, "move down")[-1].success


def _starts_at(seed: int, cell: tuple[int, int]) -> bool:
    game = double_t_maze.double_t_maze()
    talk(game, seed)
    return game.position == cell


def test_an_illegal_move_of_the_maze_costs_4_and_reads_the_same_again():
    first, second, third = talk(double_t_maze.double_t_maze(), 4, "up", "move  up")
    assert (first.text, second.reward) == (second.text, -4)
    assert (first.text, third.reward) == (third.text, -4)


def test_positions_and_walls_are_read_as_published():
    assert double_t_maze.describe((1, 10)) == (
        "The goal is at position 8, 6. Your current position is at position 1, 1 0. "
        "There are walls above you, below you.\n"
    )
    assert double_t_maze.walls((7, 6)) == "There are walls to your right, to your left."
    assert double_t_maze.walls((1, 3)) == "There is a wall above you."


@pytest.mark.parametrize(
    ("guess", "secret", "seen"),
    [
        ("speed", "abide", "bbyby"),
        ("allee", "apple", "gybbg"),
        ("eerie", "there", "ybybg"),
        ("llama", "label", "gyybb"),
    ],
)
def test_a_letter_is_not_yellow_more_often_than_the_word_has_it(guess, secret, seen):
    # the reference has both e of `speed` yellow, and both a of `llama`
    assert wordle.colours(guess, secret) == seen


@needs_data
def test_colours_of_a_whole_list_agree_with_the_plain_rule():
    words = wordle.word_list("tweet_words.txt")
    for guess, secret in itertools.product(range(0, 40, 3), range(40)):
        code = wordle._code(wordle.colours(words[guess], words[secret]))
        assert wordle._codes(words, guess)[secret] == code


def test_best_play_of_a_small_wordle_is_the_minimum_over_all_ways_to_play():
    words = ("aabbb", "ababa", "bbbaa", "aaaaa", "babab", "abbbb", "bbbbb")

    def brute(possible: tuple[int, ...], left: int) -> int:
        if left == 0:
            return 0
        costs = []
        for guess in range(len(words)):
            classes: dict[str, list[int]] = {}
            for place in possible:
                classes.setdefault(wordle.colours(words[guess], words[place]), []).append(place)
            wrong = len(possible) - (guess in possible)
            told = [tuple(others) for seen, others in classes.items() if seen != "ggggg"]
            costs.append(wrong + sum(brute(others, left - 1) for others in told))
        return min(costs)

    for left in (1, 2, 3):
        assert wordle.least_cost(words, left) == brute(tuple(range(7)), left)


@needs_data
def test_wordle_of_40_words_costs_53_over_all_secrets_and_the_expert_plays_it():
    words = wordle.word_list("tweet_words.txt")
    assert wordle.least_cost(words) == 53  # mean return -1.325
    by_secret = {}
    for seed in range(400):
        turns = play(wordle.wordle(words="tweet_words.txt"), seed=seed, behaviour="expert", max_turns=6)
        by_secret[turns[-1]["action"]] = sum(turn["reward"] for turn in turns)
    assert (len(by_secret), sum(by_secret.values())) == (40, -53)


@needs_data
def test_the_word_of_a_game_stays_the_same_and_a_text_that_is_no_word_costs_a_try():
    told = [one.text for one in talk(wordle.wordle(), 2, "xxxxx", "trash", "t r a s h", "", "elect")]
    assert told[1] == told[4] == "\n"
    assert told[2] == told[3]
    assert talk(wordle.wordle(tries=1), 2, "xxxxx")[-1].done


def cost_of_all(module, game, possible: tuple) -> int:
    """What the expert's questions cost, summed over all that is possible: of each question once, not of each game."""
    game.possible = possible
    question = game.best()
    named = [
        one for one in possible if module.guessed(question) in (one.names if hasattr(one, "names") else [one.name])
    ]
    classes: dict[str, list] = {}
    for one in possible:
        if one not in named:
            classes.setdefault(module.answer(question, one), []).append(one)
    others = [tuple(told) for told in classes.values()]
    assert all(len(told) < len(possible) for told in others)  # every question tells something
    return len(possible) - len(named) + sum(cost_of_all(module, game, told) for told in others)


@needs_data
def test_twenty_questions_is_played_at_the_bound_of_yes_and_no_for_every_object():
    assert twenty_questions.least_cost(157) == 1064  # mean return -6.777
    game = twenty_questions.twenty_questions()
    assert cost_of_all(twenty_questions, game, twenty_questions.things()) == 1064
    turns = play(twenty_questions.twenty_questions(), seed=3, behaviour="expert", max_turns=20)
    assert [turn["reward"] for turn in turns] == [-1.0] * (len(turns) - 1) + [0.0]


@pytest.mark.parametrize(("size", "cost"), [(0, 0), (1, 0), (2, 1), (3, 3), (4, 6), (5, 9), (8, 20)])
def test_naming_and_halving_cost_the_least_of_all_trees(size, cost):
    def brute(n: int) -> int:
        if n < 2:
            return 0
        halves = [n + brute(a) + brute(n - a) for a in range(1, n)]
        return min([n - 1 + brute(n - 1), *halves])

    assert twenty_questions.least_cost(size) == brute(size) == cost


@needs_data
def test_what_the_answerer_does_not_understand_is_not_answered_by_no_and_rules_nothing_out():
    game = twenty_questions.twenty_questions()
    seen = talk(game, 1, "Is it bigger than a car?", "Is it a cat or a dog?", "Was it there?")
    assert {one.text for one in seen[1:]} == {"I cannot say.\n"}
    assert len(game.possible) == 157


@needs_data
def test_an_object_is_named_by_any_of_its_names_and_by_no_sentence_about_it():
    plane = next(thing for thing in twenty_questions.things() if "plane" in thing.names)
    said = ["Is it an airplane?", "is it a plane", "Is it the plane?", "Is it in the category vehicles?"]
    assert [twenty_questions.answer(question, plane) for question in said] == ["Yes."] * 4
    assert [twenty_questions.guessed(question) in plane.names for question in said] == [True, True, True, False]


@needs_data
def test_the_first_city_of_the_table_is_drawn_a_named_city_is_right_and_open_questions_are_answered():
    names = {city.name for city in guess_city.cities()}
    assert len(names) == 100
    assert "seoul" in names  # the reference reads it as a heading
    seoul = next(city for city in guess_city.cities() if city.name == "seoul")
    assert guess_city.answer("Which country is it in?", seoul) == "South Korea."
    assert guess_city.answer("How many people live there?", seoul) == "About 10 million."
    game = guess_city.guess_city()
    talk(game, 0)
    game._secret = seoul
    seen = asyncio.run(game.step("Is your city Seoul?"))
    assert (seen.done, seen.success, seen.reward) == (True, True, 0)


@needs_data
def test_the_scripted_player_names_every_city_after_two_questions_on_average():
    assert cost_of_all(guess_city, guess_city.guess_city(), guess_city.cities()) == 213  # mean return -2.13


@needs_data
def test_published_conversations_become_turns_whose_last_one_is_free_when_the_city_was_named():
    played = guess_city.guess_city_conversations(shared_file("guess_my_city.jsonl.gz"))
    assert len(played) == 950
    assert sum(turns[-1]["reward"] == 0 for turns in played) == pytest.approx(590, abs=20)
    assert {turn["reward"] for turns in played for turn in turns[:-1]} == {-1.0}
    assert all(turns[0]["observation"] == "Questions:\n" for turns in played)


@needs_data
def test_the_errand_is_done_in_the_fewest_commands_from_every_room():
    lengths = {}
    for seed in range(60):
        game = text_nav.text_nav()
        talk(game, seed)
        room, steps = game.state.room, text_nav.fewest_steps(game.state)
        turns = play(text_nav.text_nav(), seed=seed, behaviour="expert", max_turns=15)
        assert len(turns) == steps
        assert [turn["reward"] for turn in turns] == [0.0] * (steps - 1) + [1.0]  # paid once, not at every step after
        lengths[room] = steps
    assert lengths == {
        "living room": 6, "bedroom": 7, "office": 7, "dining room": 7, "bathroom": 8, "kitchen": 8, "garden": 9,
        "backyard": 9,
    }  # fmt: skip


@needs_data
def test_eating_the_stale_food_loses_and_an_impossible_command_changes_nothing():
    seed = next(seed for seed in range(50) if "living room" in talk(text_nav.text_nav(), seed)[0].text.split("\n")[1])
    seen = talk(text_nav.text_nav(), seed, "open fridge", "take stale food from table", "eat stale food")
    assert seen[1].text == "That is not possible.\n" + seen[0].text.partition("\n")[2]
    assert (seen[3].done, seen[3].success, seen[3].reward) == (True, False, 0)
    assert isinstance(seen[0].text, str)  # the reference gives a tuple of letters


@needs_data
def test_the_partial_view_of_the_house_hides_the_room_and_what_one_holds():
    full, partial = (talk(text_nav.text_nav(observed=view), 3)[0].text for view in ("full", "partial"))
    assert "You are in the" in full
    assert "You are in the" not in partial
    assert "carrying" not in partial


def test_the_best_dealer_earns_39000_on_average_over_all_buyers():
    assert car_dealer.optimal_mean() == pytest.approx(39.0)
    earned = []
    for personality, budget in itertools.product(car_dealer.PATIENCE, car_dealer.BUDGETS):
        game = car_dealer.car_dealer()
        talk(game, 0)
        game.buyer = game.buyer._replace(personality=personality, budget=budget)
        seen = asyncio.run(game.step(game.best()))
        while not seen.done:
            seen = asyncio.run(game.step(game.best()))
        earned.append(seen.reward)
    assert np.mean(earned) == pytest.approx(39.0)


@pytest.mark.parametrize(("left", "worth"), [(1, 150), (2, 200), (3, 220), (5, 250)])
def test_prices_are_named_as_trying_all_orders_would(left, worth):
    best = max(
        sum(next((price for price in prices if price <= budget), 0) for budget in car_dealer.BUDGETS)
        for count in range(1, left + 1)
        for prices in itertools.permutations(car_dealer.BUDGETS, count)
    )
    assert car_dealer.offers_worth(car_dealer.BUDGETS, left) == best == worth * 1000


@pytest.mark.parametrize("reward", ["revenue", "fancy"])
def test_no_sale_pays_nothing_and_a_dearer_sale_pays_more(reward):
    game = car_dealer.car_dealer(reward=reward)
    talk(game, 7)
    while not (seen := asyncio.run(game.step("Take it for $900,000."))).done:
        pass
    assert (seen.reward, seen.success) == (0.0, False)  # the reference may pay more for no sale than for a good one
    buyer = game.buyer
    assert car_dealer.payment(buyer.budget, buyer, reward) > car_dealer.payment(buyer.budget // 2, buyer, reward) > 0


def test_a_missing_file_of_the_data_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ALIGNKIT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EpisodeError, match=r"no file 'no_such_list.txt' in .*multiturn"):
        wordle.wordle(words="no_such_list.txt")
