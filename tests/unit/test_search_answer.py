"""The think, search, answer loop over local documents: exact match by hand, and a question that needs two searches."""

from __future__ import annotations

import asyncio
import json

import pytest

from alignkit.data.generators import generate
from alignkit.environments.base import Environment
from alignkit.environments.lift import find_environment
from alignkit.environments.search_answer import exact_match, normalised
from alignkit.errors import EpisodeError
from alignkit.recipe.lookup.data_file import data_file
from alignkit.types.task import Task

TASK = Task(id="q", text="In which country does the river of Aldur end?", reference=["the Verran Republic", "Verran"])


@pytest.fixture
def make(tmp_path):
    pytest.importorskip("bm25s")
    documents = [
        {"title": "Aldur", "text": "The river of Aldur is the Ost."},
        {"title": "Ost", "text": "The Ost is a river that ends in the Verran Republic."},
        {"title": "Mill", "text": "A mill grinds corn."},
    ]
    path = tmp_path / "documents.jsonl"
    path.write_text("\n".join(map(json.dumps, documents)))
    return find_environment("search_answer", {"corpus": str(path), "results": 1, "max_turns": 3})


def talk(game: Environment, *said: str):
    async def run():
        return [await game.start(TASK, 0), *[await game.step(text) for text in said]]

    return asyncio.run(run())


def test_two_searches_lead_to_the_answer_that_pays_1(make):
    said = "<think>Which river? <answer>Ost</answer></think><search>river Aldur</search>"
    asked, first, second, third = talk(make(), said, "<search>Ost ends</search>", "<answer>Verran republic.</answer>")
    assert "Question: In which country does the river of Aldur end?" in asked.text
    assert first.text.startswith("<information>\n")
    assert "The river of Aldur is the Ost." in first.text
    assert "Verran Republic" in second.text
    assert (third.reward, third.done, third.success) == (1.0, True, True)


def test_a_wrong_answer_ends_it_with_0_and_a_text_without_an_action_costs_a_turn(make):
    *_, last = talk(make(), "<answer>Ost</answer>")
    assert (last.reward, last.done, last.success) == (0.0, True, False)
    seen = talk(make(), "hm", "<search>mill", "<answer></answer>x")
    assert [one.done for one in seen] == [False, False, False, True]
    assert seen[1].text == seen[2].text != seen[3].text
    assert seen[3].reward == 0


@pytest.mark.parametrize(
    ("said", "gold", "right"),
    [("The Eiffel Tower!", "eiffel tower", True), ("an  Apple", "apple", True), ("apples", "apple", False),
     ("the", "a", False), ("", "", False), ("3.5", "35", True)],
)  # fmt: skip
def test_exact_match_is_squad_s(said, gold, right):
    assert exact_match(said, {normalised(gold)}) is right


def test_questions_about_cities_are_answered_by_the_table_and_careless_players_are_paid_nothing():
    pytest.importorskip("bm25s")
    if data_file("multiturn/global_cities.txt", None) is None:
        pytest.skip("no file multiturn/global_cities.txt; set ALIGNKIT_DATA")
    rows = generate("city_questions", {"played": True, "count": 60}, split="train", seed=0)
    careful = [row["turns"] for row in rows if len(row["turns"]) == 2 and row["turns"][-1]["reward"] == 1]
    assert 30 <= len(careful) <= 50
    assert all(row["reference"] in turns[1]["observation"] for row in rows if (turns := row["turns"]) in careful)
    tasks = generate("city_questions", {"count": 100}, split="heldout", seed=0)
    assert len({row["prompt"] for row in tasks}) == 20
    assert not {row["prompt"] for row in tasks} & {row["prompt"] for row in rows}


def test_a_question_without_a_reference_is_a_fault_and_not_a_zero(make):
    with pytest.raises(EpisodeError, match="task q has no reference"):
        asyncio.run(make().start(Task(id="q", text="?"), 0))
