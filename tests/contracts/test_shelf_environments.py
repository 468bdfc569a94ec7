"""Every environment of the shelf, found by itself: it is used once, replays, says what it is, and takes any text."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignkit.environments.base import Environment, Game, Observation
from alignkit.environments.behaviour import play
from alignkit.environments.lift import find_environment
from alignkit.environments.lmrl.anchors import ANCHORS
from alignkit.errors import ContentError, EpisodeError
from alignkit.types.task import Task

ROOT = Path(__file__).resolve().parents[2]
DOCS = runpy.run_path(str(ROOT / ".ci" / "environments_docs.py"))
WORLDS = {found.name: found for found in DOCS["worlds"]()}
NAMES = list(WORLDS)
TASK = Task(id="t", text="?", reference="7")


@pytest.fixture(scope="module")
def needed(tmp_path_factory):
    """Options without which an environment cannot be made."""
    corpus = tmp_path_factory.mktemp("corpus") / "documents.txt"
    corpus.write_text("The mill grinds corn.\nThe river turns the mill.\n")
    return {"search_answer": {"corpus": str(corpus)}}


@pytest.fixture(params=NAMES)
def make(request, needed):
    try:
        return find_environment(request.param, needed.get(request.param, {}))
    except ContentError as error:
        if "there is no file" in str(error) or "pip install" in str(error):
            pytest.skip(f"{request.param}: {error}")
        raise


def episode(environment: Environment, seed: int, said: list[str]) -> list[Observation]:
    async def run() -> list[Observation]:
        seen = [await environment.start(TASK, seed)]
        for text in said:
            if seen[-1].done:
                break
            seen.append(await environment.step(text))
        return seen

    return asyncio.run(run())


def test_an_environment_is_used_once_and_not_after_its_end(make):
    with pytest.raises(EpisodeError, match="before its start"):
        asyncio.run(make().step("5"))
    game = make()
    episode(game, 1, [])
    with pytest.raises(EpisodeError, match="started twice"):
        episode(game, 1, [])
    over = make()
    episode(over, 3, [])
    while not asyncio.run(over.step(over.best() if isinstance(over, Game) else "5")).done:
        pass
    with pytest.raises(EpisodeError, match="after its end"):
        asyncio.run(over.step("5"))


def test_the_seed_decides_the_episode_and_another_one_is_another(make):
    _skip_unless_a_game(make)
    runs = [[play(make(), seed=seed, behaviour="mixed", max_turns=8) for seed in range(8)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({str(turns) for turns in runs[0]}) > 4


def test_the_same_illegal_texts_replay(make):
    said = ["", "\n", "xyzzy", "9" * 400, "d u", "é" * 50]
    assert episode(make(), 5, said) == episode(make(), 5, said)


def test_the_best_move_is_legal_and_earns_more_than_random_play(make):
    _skip_unless_a_game(make)
    means = {}
    for behaviour in ("expert", "random"):
        games = [play(make(), seed=seed, behaviour=behaviour, max_turns=25) for seed in range(8)]
        means[behaviour] = sum(turn["reward"] for turns in games for turn in turns) / 8
    assert means["expert"] > means["random"]


def _skip_unless_a_game(make) -> None:
    if not isinstance(make(), Game):
        pytest.skip("its episodes come from data, and nothing knows its best move")


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_says_what_is_read_said_paid_and_when_it_ends(name):
    facts = DOCS["environment_facts"](WORLDS[name])
    assert WORLDS[name].summary
    assert all(facts.values()), facts


def test_the_docs_have_the_table_of_environments():
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    shown = page.partition(DOCS["BEGIN"])[2].partition(DOCS["END"])[0]
    assert shown == f"\n{DOCS['environments_markdown']()}\n", "run: make environments-table"


def test_anchors_are_of_environments_that_there_are():
    assert {key.split(",")[0] for key in ANCHORS} <= set(NAMES)


TEXT = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["move up", "go west", "open fridge", "take fridge from table", "Nf3", "--", "O-O", "e8=Q", "c r a n e",
         "Is it ?", "Is it in the category ?", "Does its name come before  in the alphabet?", "$", "$0", "$9,,9",
         "$999999999999", "<answer></answer>", "<answer>0</answer>", 
         "<search></search>", "<search>mill</search>", "<answer>999999999</answer>", "¹", "²3"]
    ),
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(TEXT, max_size=12), seed=st.integers(0, 2**62))
def test_no_text_raises_and_rewards_stay_in_bounds(make, said, seed):
    seen = episode(make(), seed, said)
    assert all(-4 <= one.reward <= 90 and one.success in (True, False) and one.text for one in seen)
    assert not any(one.done for one in seen[:-1])
