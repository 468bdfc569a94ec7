"""Questions that documents answer: in which country a city lies. For the environment search_answer."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from numpy.random import Generator, Philox

from alignkit.environments.lmrl.guess_city import City, cities
from alignkit.environments.search_answer import SearchAnswer, search_answer
from alignkit.types.seeds import child
from alignkit.types.task import Task

CORPUS = "multiturn/global_cities.txt"  # a city a line, with its country
CARELESS = 1 / 3


def city_rows(
    *,
    split: Literal["train", "heldout"],
    seed: int,
    played: bool,
    count: int,
) -> list[dict[str, Any]]:
    """Rows with a question and its answer as reference; every fifth city is held out.

    played: with `turns` as well, a search for the city and then an answer. One player in three is careless: half of
    these do not search, and answer with the country of any city.
    """
    asked = [city for number, city in enumerate(cities()) if (number % 5 == 0) == (split == "heldout")]
    rows = []
    for number in range(count):
        draw = Generator(Philox(key=child(seed, "generator", "city_questions", split, number)))
        city = asked[int(draw.integers(len(asked)))] if played else asked[number % len(asked)]
        row: dict[str, Any] = {"prompt": f"Which country is {city.name.title()} in?", "reference": city.called}
        if played:
            task = Task(id=str(number), text=row["prompt"], reference=city.called)
            game = search_answer(corpus=CORPUS, results=1)
            row["turns"] = asyncio.run(_play(game, task, _said(city, draw)))
        rows.append(row)
    return rows


def _said(city: City, draw: Generator) -> list[str]:
    search, answer = f"<search>{city.name.title()}</search>", f"<answer>{city.called}</answer>"
    if draw.random() >= CARELESS:
        return [search, answer]
    other = cities()[int(draw.integers(len(cities())))]
    return [search] * int(draw.integers(2)) + [f"<answer>{other.called}</answer>"]


async def _play(game: SearchAnswer, task: Task, said: list[str]) -> list[dict[str, Any]]:
    seen, turns = await game.start(task, 0), []
    for text in said:
        observation, seen = seen.text, await game.step(text)
        turns.append({"observation": observation, "action": text, "reward": seen.reward})
    return turns
