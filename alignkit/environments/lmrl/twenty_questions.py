"""LMRL-Gym's 20 Questions: 157 objects, an answerer that only knows what is in their table, -1 a question.

Observations and rewards as in arXiv 2311.18232: `Yes.` or `No.` to each question, 0 for the one that names the object.
There a network answers (flan-T5); here a table does, so that seeds replay and no model is needed: what an object is
called, and its category. Not repeated from the reference (abdulhaim/LMRL-Gym at 911d726b5b37): a question that the
answerer does not understand is no "No." but `I cannot say.`, which rules nothing out; whether a question names the
object does not hang on a part-of-speech tagger. Each has a test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.environments.lmrl.data_files import shared_file
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

UNKNOWN = "I cannot say."
NAMED = re.compile(r"is (?:it|this|the object) (?:called )?(?:an? |the |some )?(.+)")
CATEGORY = re.compile(r"is (?:it|this|the object) (?:in the category|one of the) (.+)")
LETTER = re.compile(r"does its name (contain|begin with|end with) (?:the letter )?([a-z])")
BEFORE = re.compile(r"does its name come before (.+) in the alphabet")


class Thing(NamedTuple):
    """names: what it may be called, in small letters; the first is the one that counts in the alphabet."""

    names: tuple[str, ...]
    category: str


class TwentyQuestions(Game):
    """possible: the objects that agree with all answers so far, by name."""

    possible: tuple[Thing, ...]

    def __init__(self, *, questions: int):
        super().__init__()
        if questions < 1:
            raise EpisodeError(f"twenty_questions: questions is {questions}; wanted at least 1")
        self._left = questions
        self.possible = things()

    def choices(self) -> list[str]:
        return _sensible()

    def best(self) -> str:
        names = [thing.names[0] for thing in self.possible]
        below = best_split(len(names))
        return f"Is it {names[0]}?" if below is None else f"Does its name come before {names[below]} in the alphabet?"

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        self._secret = things()[int(random.integers(len(things())))]
        return Observation(text="Questions:\n", success=False)

    def _act(self, text: str) -> Observation:
        said = answer(text, self._secret)
        self._left -= 1
        if guessed(text) in self._secret.names:
            return Observation(text=f"{said}\n", done=True, success=True)
        self.possible = tuple(thing for thing in self.possible if answer(text, thing) == said)
        return Observation(text=f"{said}\n", reward=-1.0, done=self._left == 0, success=False)


def twenty_questions(*, questions: int = 20) -> TwentyQuestions:
    """One game over the objects of `multiturn/twenty_questions_objects.json`.

    Reads: `Yes.`, `No.`, or `I cannot say.`
    Says: `Is it in the category animals?`, `Does its name contain the letter e?`, `Is it a cat?`
    Pays: -1 a question, 0 for the one that names the object
    Ends: named, or after `questions` questions
    Optimum: exact: -6.78, as any halving can be asked for by the alphabet (`least_cost`)
    """
    return TwentyQuestions(questions=questions)


@cache
def things() -> tuple[Thing, ...]:
    """All objects, by name."""
    table = json.loads(shared_file("twenty_questions_objects.json"))
    found = [Thing(tuple(names.lower().split(";")), kind.lower()) for kind in table for names in table[kind]]
    return tuple(sorted(found))


def answer(question: str, thing: Thing) -> str:
    """What the answerer says of an object; UNKNOWN for what it does not understand."""
    asked = plain(question)
    if match := CATEGORY.fullmatch(asked):
        return yes_or_no(match[1] == thing.category) if match[1] in _categories() else UNKNOWN
    if (match := LETTER.fullmatch(asked)) or (match := BEFORE.fullmatch(asked)):
        return about_name(match, thing.names[0])
    return yes_or_no(guessed(question) in thing.names) if guessed(question) in _all_names() else UNKNOWN


def about_name(match: re.Match[str], name: str) -> str:
    """The answer to a question on the letters or the place in the alphabet of a name, matched by LETTER or BEFORE."""
    if match.re is BEFORE:
        return yes_or_no(name < match[1])
    rules = {"contain": match[2] in name, "begin with": name.startswith(match[2]), "end with": name.endswith(match[2])}
    return yes_or_no(rules[match[1]])


def guessed(question: str) -> str | None:
    """What a question names, without its article; None when it does not ask `Is it ...?`."""
    match = NAMED.fullmatch(plain(question))
    return match[1] if match else None


def plain(question: str) -> str:
    """In small letters, without the question mark and double spaces."""
    return " ".join(question.lower().rstrip("?. \n").split())


def yes_or_no(true: bool) -> str:
    return "Yes." if true else "No."


@cache
def least_cost(size: int) -> int:
    """The least sum, over `size` equally likely objects, of the questions before the one that names each:

    c(0) = c(1) = 0, c(n) = min(n - 1 + c(n - 1), min over a + b = n of n + c(a) + c(b)): naming one costs all others
    1, a question costs all of them 1. No play of yes and no questions costs less; the alphabet allows every split.
    """
    if size < 2:
        return 0
    naming = size - 1 + least_cost(size - 1)
    return min([naming, *(size + least_cost(below) + least_cost(size - below) for below in range(1, size // 2 + 1))])


@cache
def best_split(size: int) -> int | None:
    """How many objects the best question should leave below; None when one should be named."""
    if size < 2 or least_cost(size) == size - 1 + least_cost(size - 1):
        return None
    costs: Sequence[int] = [least_cost(below) + least_cost(size - below) for below in range(1, size // 2 + 1)]
    return 1 + max(at for at, cost in enumerate(costs) if cost == min(costs))


@cache
def _categories() -> frozenset[str]:
    return frozenset(thing.category for thing in things())


@cache
def _all_names() -> frozenset[str]:
    return frozenset(name for thing in things() for name in thing.names)


@cache
def _sensible() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    rules = [f"Does its name {rule} the letter {letter}?" for rule in ("contain", "begin with") for letter in letters]
    kinds = [f"Is it in the category {kind}?" for kind in sorted(_categories())]
    return [*kinds, *rules, *(f"Is it {thing.names[0]}?" for thing in things())]
