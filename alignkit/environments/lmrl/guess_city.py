"""LMRL-Gym's Guess My City: the 100 largest cities, open questions as well as yes and no, -1 a question.

Rewards as in arXiv 2311.18232, 0 for the question that names the city. There a network answers; here the table of
`multiturn/global_cities.txt` does: country, population in millions, name. Not repeated from the reference
(abdulhaim/LMRL-Gym at 911d726b5b37): there the largest city is read as a heading and never drawn, a guess is compared
letter by letter with words and so never right, and open questions are answered by yes and no. Each has a test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.environments.lmrl.data_files import shared_file
from alignkit.environments.lmrl.twenty_questions import (
    BEFORE,
    LETTER,
    UNKNOWN,
    about_name,
    best_split,
    least_cost,
    plain,
    yes_or_no,
)
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

NAMED = re.compile(r"(?:is (?:it|your city)|are you from) (?:called )?(.+)")
COUNTRY = re.compile(r"(?:what|which) country is (?:it|your city) in|(?:what|which) country are you from")
PEOPLE = re.compile(r"(?:what is its population|how many people live there)")
INSIDE = re.compile(r"is (?:it|your city) (?:located )?in (.+)")
OPEN = ("Which country is it in?", "How many people live there?")


class City(NamedTuple):
    """name, country: in small letters. called: the country as the table writes it. millions: of people, rounded."""

    name: str
    country: str
    called: str
    millions: int


class GuessCity(Game):
    """possible: the cities that agree with all answers so far, by name."""

    possible: tuple[City, ...]

    def __init__(self, *, questions: int):
        super().__init__()
        if questions < 1:
            raise EpisodeError(f"guess_city: questions is {questions}; wanted at least 1")
        self._left = questions
        self.possible = cities()

    def choices(self) -> list[str]:
        return _sensible()

    def best(self) -> str:
        return scripted_question(self.possible)

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        self._secret = cities()[int(random.integers(len(cities())))]
        return Observation(text="Questions:\n", success=False)

    def _act(self, text: str) -> Observation:
        said = answer(text, self._secret)
        self._left -= 1
        if guessed(text) == self._secret.name:
            return Observation(text=f"{said}\n", done=True, success=True)
        self.possible = tuple(city for city in self.possible if answer(text, city) == said)
        return Observation(text=f"{said}\n", reward=-1.0, done=self._left == 0, success=False)


def guess_city(*, questions: int = 20) -> GuessCity:
    """One game over the cities of `multiturn/global_cities.txt`.

    Reads: `Yes.`, `No.`, a country, `About 8 million.`, or `I cannot say.`
    Says: `Which country is it in?`, `How many people live there?`, `Is it in India?`, `Is it Tokyo?`
    Pays: -1 a question, 0 for the one that names the city
    Ends: named, or after `questions` questions
    Optimum: scripted: the question that leaves least to halve (`scripted_question`) earns -2.13
    """
    return GuessCity(questions=questions)


@cache
def cities() -> tuple[City, ...]:
    """All cities, by name."""
    found = []
    for line in shared_file("global_cities.txt").splitlines():
        columns = [column.strip() for column in line.split(";")]
        if len(columns) == 4 and columns[0].isdecimal():  # not the heading
            people = int(columns[3].replace(",", ""))
            # the last line of the table has lost its last digit: ranks fall with the population
            people *= 10 if people < 1_000_000 else 1
            found.append(City(columns[1].lower(), columns[2].lower(), columns[2], round(people / 1e6)))
    return tuple(sorted(found))


def answer(question: str, city: City) -> str:
    """What the answerer says of a city; UNKNOWN for what it does not understand."""
    asked = plain(question)
    if (match := LETTER.fullmatch(asked)) or (match := BEFORE.fullmatch(asked)):
        return about_name(match, city.name)
    if COUNTRY.fullmatch(asked):
        return f"{city.called}."
    if PEOPLE.fullmatch(asked):
        return f"About {city.millions} million."
    if match := INSIDE.fullmatch(asked):
        return yes_or_no(match[1] == city.country) if match[1] in _countries() else UNKNOWN
    named = guessed(question)
    return yes_or_no(named == city.name) if named in _names() else UNKNOWN


def guessed(question: str) -> str | None:
    """The name that a question asks for; None when it asks for none."""
    match = NAMED.fullmatch(plain(question))
    return match[1] if match else None


def scripted_question(possible: tuple[City, ...]) -> str:
    """Of the two open questions, naming the first city and halving the alphabet: the one that leaves the least cost, if
    all that is left were halved."""
    names = [city.name for city in possible]
    below = best_split(len(names))
    halving = f"Is it {names[0]}?" if below is None else f"Does its name come before {names[below]} in the alphabet?"
    wrong = least_cost(len(names))
    costs = {halving: wrong} | {question: len(names) + _cost_after(question, possible) for question in OPEN}
    return min(costs, key=lambda question: costs[question])


def _cost_after(question: str, possible: Iterable[City]) -> int:
    sizes: dict[str, int] = {}
    for city in possible:
        said = answer(question, city)
        sizes[said] = sizes.get(said, 0) + 1
    return sum(least_cost(size) for size in sizes.values())


def guess_city_conversations(text: str) -> list[list[dict[str, Any]]]:
    """Published conversations as turns, {observation, action, reward} each; of `multiturn/guess_my_city.jsonl.gz`.

    text: a JSON object a line, with `conversation`, a list of `Question? Answer`, and `done`, whether the city was
    named. A line in which question and answer cannot be told apart ends its conversation.
    """
    played = []
    for row in map(json.loads, text.splitlines()):
        turns, seen, lines = [], "Questions:\n", row["conversation"]
        for at, line in enumerate(lines):
            question, mark, said = line.partition("? ")
            if not mark:
                break
            found = bool(row["done"]) and at == len(lines) - 1
            turns.append({"observation": seen, "action": f"{question}?", "reward": 0.0 if found else -1.0})
            seen = f"{said}\n"
        if turns:
            played.append(turns)
    return played


@cache
def _countries() -> frozenset[str]:
    return frozenset(city.country for city in cities())


@cache
def _names() -> frozenset[str]:
    return frozenset(city.name for city in cities())


@cache
def _sensible() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    rules = [f"Does its name {rule} the letter {letter}?" for rule in ("contain", "begin with") for letter in letters]
    places = [f"Is it in {country}?" for country in sorted(_countries())]
    return [*OPEN, *places, *rules, *(f"Is it {city.name}?" for city in cities())]
