"""The two first environments against brute force, the single-use guard, the players and the finder."""

from __future__ import annotations

import asyncio
import itertools
from functools import cache

import pytest

from alignkit.environments import guess_number as guessing
from alignkit.environments import maze as walking
from alignkit.environments.base import Environment, Observation
from alignkit.environments.behaviour import play
from alignkit.environments.lift import find_environment
from alignkit.errors import ContentError, EpisodeError
from alignkit.recipe.lookup.find import list_content
from alignkit.types.task import Task

TASK = Task(id="t", text="?")
GAMES = [find_environment(name, {}) for name in ("guess_number", "maze")]


def talk(game: Environment, seed: int, *said: str) -> list[Observation]:
    async def run() -> list[Observation]:
        return [await game.start(TASK, seed), *[await game.step(text) for text in said]]

    return asyncio.run(run())


def secret_of(seed: int, numbers: int) -> int:
    return next(n for n in range(numbers) if talk(guessing.guess_number(numbers=numbers), seed, str(n))[-1].done)


@pytest.mark.parametrize("make", GAMES, ids=lambda make: make.func.__name__)
def test_an_environment_is_used_once(make):
    game = make()
    with pytest.raises(EpisodeError, match="step before its start"):
        asyncio.run(game.step("5"))
    talk(game, 1)
    with pytest.raises(EpisodeError, match="started twice"):
        talk(game, 1)
    over = make()
    while not asyncio.run(_begin_or_step(over)).done:
        pass
    with pytest.raises(EpisodeError, match="step after its end"):
        asyncio.run(over.step("5"))


async def _begin_or_step(game) -> Observation:
    return await (game.start(TASK, 3) if game._phase == "new" else game.step(game.best()))


@pytest.mark.parametrize("make", GAMES, ids=lambda make: make.func.__name__)
def test_the_seed_alone_decides_the_episode(make):
    runs = [[play(make(), seed=seed, behaviour="mixed", max_turns=12) for seed in range(30)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({str(turns) for turns in runs[0]}) > 20


def test_every_guess_is_answered_and_paid_by_the_rules():
    secret = secret_of(7, 20)
    above, below = str(secret + 1 if secret < 19 else 19), str(secret - 1 if secret else 0)
    game = guessing.guess_number(numbers=20, guesses=8)
    start, nonsense, outside = talk(game, 7, "x1", "20")
    assert (start.text, start.reward, start.done, start.success) == ("?", 0.0, False, False)
    for wrong in (nonsense, outside):
        assert (wrong.text, wrong.reward, wrong.done) == ("!", -1.0, False)
    assert game.state == (0, 19, 6)
    if secret < 19:
        assert asyncio.run(game.step(above)).text == "<"
    if secret:
        assert asyncio.run(game.step(below)).text == ">"
    hit = asyncio.run(game.step(str(secret)))
    assert (hit.text, hit.reward, hit.done, hit.success) == ("=", 0.0, True, True)


def test_the_last_wrong_guess_ends_the_game_without_success():
    seen = talk(guessing.guess_number(guesses=3), 0, "!", "", "²")
    assert [(o.reward, o.done, o.success) for o in seen[1:]] == [
        (-1, False, False),
        (-1, False, False),
        (-1, True, False),
    ]


@pytest.mark.parametrize(("numbers", "guesses"), [(2, 1), (3, 2), (5, 2), (6, 3), (7, 5)])
def test_the_value_of_guessing_is_the_best_over_all_decision_trees(numbers, guesses):
    @cache
    def best_total(candidates: tuple[int, ...], left: int) -> float:
        """Largest sum of returns over the candidates; any number of the range may be guessed."""
        if not candidates or not left:
            return 0.0
        totals = []
        for guess in range(numbers):
            parts = [tuple(c for c in candidates if c < guess), tuple(c for c in candidates if c > guess)]
            totals.append(sum(-len(part) + best_total(part, left - 1) for part in parts))
        return max(totals)

    value = guessing.optimal_value(guessing.State(0, numbers - 1, guesses))
    assert value == pytest.approx(best_total(tuple(range(numbers)), guesses) / numbers)


def test_twenty_numbers_are_worth_the_depths_of_a_balanced_tree():
    wrong = 1 * 0 + 2 * 1 + 4 * 2 + 8 * 3 + 5 * 4  # one guess at depth 1, two at depth 2, ...
    assert guessing.optimal_value(guessing.State(0, 19, 8)) == -wrong / 20


def test_perfect_guessing_earns_its_value_for_every_secret():
    returns = {secret_of(seed, 20): _return(guessing.guess_number(), seed) for seed in range(150)}
    assert sorted(returns) == list(range(20))
    assert sum(returns.values()) / 20 == pytest.approx(guessing.optimal_value(guessing.State(0, 19, 8)))


def _return(game, seed: int) -> float:
    return sum(turn["reward"] for turn in play(game, seed=seed, behaviour="expert", max_turns=50))


def test_the_value_of_a_walk_satisfies_bellman_everywhere_and_perfect_walks_earn_it():
    for goal, cell in itertools.product(walking.FREE, repeat=2):
        if cell == goal:
            continue
        after = [walking._step(cell, move) for move in walking.MOVES]
        best = max(0.0 if c == goal else -1 + walking.optimal_value(walking.State(goal, c)) for c in after)
        assert walking.optimal_value(walking.State(goal, cell)) == best
    for seed in range(60):
        game = walking.maze()
        talk(game, seed)
        value = walking.optimal_value(game.state)
        assert _return(walking.maze(), seed) == value


def test_the_maze_says_where_the_walls_are_and_charges_for_bumps_and_nonsense():
    state = walking.State(goal=(5, 1), position=(1, 2))
    assert walking.describe(state) == "5112ud>"
    game = walking.maze()
    talk(game, 0)
    game.state = state
    bump, nonsense, step = (asyncio.run(game.step(text)) for text in ("u", "up", "l"))
    assert (bump.text, bump.reward) == ("5112ud>", -1.0)
    assert (nonsense.text, nonsense.reward) == ("5112ud>", -4.0)
    assert (step.text, step.reward) == ("5111ul>", -1.0)
    assert not step.success
    game.state = walking.State(goal=(1, 1), position=(1, 2))
    arrived = asyncio.run(game.step("l"))
    assert (arrived.reward, arrived.done, arrived.success) == (0.0, True, True)


def test_every_walk_can_end_within_the_turns_of_the_recipe():
    longest = max(-walking.optimal_value(walking.State(a, b)) + 1 for a, b in itertools.permutations(walking.FREE, 2))
    assert longest == 10


@pytest.mark.parametrize("make", GAMES, ids=lambda make: make.func.__name__)
def test_the_expert_earns_more_than_the_mixture_and_that_more_than_random_play(make):
    means = {}
    for behaviour in ("expert", "mixed", "random"):
        games = [play(make(), seed=seed, behaviour=behaviour, max_turns=12) for seed in range(200)]
        means[behaviour] = sum(turn["reward"] for turns in games for turn in turns) / 200
    assert means["expert"] > means["mixed"] + 1 > means["random"] + 2


def test_the_shelf_holds_environments_ways_into_other_libraries_and_no_helper():
    own = (
        "car_dealer chess double_t_maze endgames garden guess_a_number guess_city guess_number maze search_answer "
        "text_nav twenty_questions wordle"
    )
    names = {found.name: found.path.parent.name for found in list_content("environments")}
    assert [name for name, folder in names.items() if folder != "adapters"] == own.split()
    assert "gymnasium" in names


def test_a_users_environment_is_found_by_its_file_and_wrong_options_are_named(tmp_path):
    (tmp_path / "echo.py").write_text(
        "class echo:\n    def __init__(self, times=1):\n        assert times > 0, 'times is 0'\n"
        "    async def start(self, task, seed): ...\n    async def step(self, text): ...\n"
        "def no_environment():\n    return 3\n"
    )
    make = find_environment("./echo.py:echo", {"times": 2}, tmp_path)
    assert make() is not make()
    with pytest.raises(ContentError, match=r"no option 'time' \(did you mean 'times'\?\)"):
        find_environment("./echo.py:echo", {"time": 2}, tmp_path)
    with pytest.raises(ContentError, match="times is 0"):
        find_environment("./echo.py:echo", {"times": 0}, tmp_path)
    with pytest.raises(ContentError, match="makes a int, which lacks `start` or `step`"):
        find_environment("./echo.py:no_environment", {}, tmp_path)
    with pytest.raises(ContentError, match="wanted numbers >= 2"):
        find_environment("guess_number", {"numbers": 1})
