"""Answer a question by searching local documents: think, `<search>words</search>`, read, and `<answer>text</answer>`.

The loop of Search-R1 (arXiv 2503.09516): what is found comes back between `<information>` tags, and an answer pays 1
when it is the reference's, by the exact match of SQuAD (arXiv 1606.05250): letter case, punctuation and articles do not
count. A judge of the answer, or anything else, is added by the stage's `rewards`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable
from functools import cache

from alignkit.environments.base import Observation
from alignkit.errors import EpisodeError
from alignkit.recipe.lookup.data_file import data_file
from alignkit.types.task import Task

MOST_SAID = 20_000
"""Characters of an utterance that are looked at: tags that never close cost their square."""
ACTION = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)
THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
ARTICLES = re.compile(r"\b(a|an|the)\b")
HOW = (
    "Answer the question. You can search documents as often as you need: <search>words</search>. What is found is "
    "shown between <information> and </information>. When you know it, write <answer>the answer</answer>.\n"
)


class SearchAnswer:
    """One question. The first search or answer of an utterance counts, and none within its thoughts."""

    def __init__(self, find: Callable[[str], str], max_turns: int):
        if max_turns < 1:
            raise EpisodeError(f"search_answer: max_turns is {max_turns}; wanted at least 1")
        self._find, self._left, self._gold = find, max_turns, None
        self._over = False

    async def start(self, task: Task, seed: int) -> Observation:
        if self._gold is not None:
            raise EpisodeError("search_answer: started twice; make a new environment for every episode")
        if task.reference is None:
            raise EpisodeError(f"search_answer: task {task.id} has no reference; name its column with data.columns")
        golds = task.reference if isinstance(task.reference, list | tuple) else [task.reference]
        self._gold = frozenset(normalised(str(gold)) for gold in golds)
        asked = task.text if task.messages is None else task.messages[-1]["content"]
        return Observation(text=f"{HOW}Question: {asked}\n", success=False)

    async def step(self, text: str) -> Observation:
        if self._gold is None or self._over:
            when = "before its start" if self._gold is None else "after its end"
            raise EpisodeError(f"search_answer: step {when}; make a new environment for every episode")
        action = ACTION.search(THOUGHT.sub("", text[:MOST_SAID]))
        self._left -= 1
        self._over = self._left == 0 or (action is not None and action[1] == "answer")
        if action is None:
            told = "Write <search>words</search> or <answer>the answer</answer>.\n"
        elif action[1] == "search":
            told = f"<information>\n{self._find(action[2].strip())}\n</information>\n"
        else:
            right = exact_match(action[2], self._gold)
            return Observation(text="Done.\n", reward=float(right), done=True, success=right)
        return Observation(text=told, done=self._over, success=False)


def search_answer(*, corpus: str, results: int = 3, characters: int = 1000, max_turns: int = 6) -> SearchAnswer:
    """One question of the stage's data, whose reference, or any of a list of them, is the right answer.

    corpus: a file of documents, see `tools/search.py`, searched in the working folder and in the data's.

    Reads: the question; what a search has found
    Says: `<search>words</search>` or `<answer>text</answer>`, after any thoughts
    Pays: 1 for the right answer, else 0
    Ends: with an answer, or after `max_turns` texts
    Optimum: 1, where the documents of `corpus` hold the answers
    """
    return SearchAnswer(_search(corpus, results, characters), max_turns)


@cache
def _search(corpus: str, results: int, characters: int) -> Callable[[str], str]:
    """The tool over a corpus, indexed once a process."""
    from alignkit.environments.tools.search import search

    return search(corpus=str(data_file(corpus, None) or corpus), results=results, characters=characters)


def exact_match(answer: str, golds: Iterable[str]) -> bool:
    """Whether an answer is one of the `normalised` golds; an empty one never is."""
    said = normalised(answer)
    return bool(said) and said in golds


def normalised(text: str) -> str:
    """In small letters, without punctuation, articles and double spaces; as SQuAD's exact match compares."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", bare).split())
