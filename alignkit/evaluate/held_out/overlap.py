"""Training prompts that a benchmark asks, too: by the whole question, and by 13 words in a row."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RUN = 13
"""Words: the length that GPT-3 (2005.14165) and most decontaminations since compare by."""
WORD = re.compile(r"\w+")
FACTOR = 0x9E3779B97F4A7C15
POWERS = [np.uint64(pow(FACTOR, power, 2**64)) for power in range(RUN)]

Place = tuple[int, int]
"""(number of a benchmark, number of its question)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """The questions of a file. protocols: who asks them. questions: of each row the texts that a prompt is made of."""

    file: str
    protocols: tuple[str, ...]
    questions: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How many of a benchmark's questions are trained on. exact: word by word. run: at least 13 words in a row.

    prompts: how many of the compared prompts share one, either way.
    """

    benchmark: Benchmark
    exact: int
    run: int
    prompts: int

    def __str__(self) -> str:
        of, who = len(self.benchmark.questions), ", ".join(self.benchmark.protocols)
        return (
            f"of the {of:,} questions of {self.benchmark.file} ({who}) {self.exact:,} are training prompts, "
            f"{self.run:,} share {RUN} words in a row with one: what these say of the trained model is not held out"
        )


class Questions:
    """What benchmarks ask, to be searched for prompts, of which there may be many more and which are not kept.

    By hashes of 64 bits: of a question's words in a dictionary, of each 13 of them in a row in sorted arrays.
    """

    def __init__(self, benchmarks: Sequence[Benchmark]):
        self._whole: dict[int, list[Place]] = defaultdict(list)
        self._places: list[Place] = []
        keys, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for number, benchmark in enumerate(benchmarks):
            for row, texts in enumerate(benchmark.questions):
                for said in filter(None, map(words, texts)):
                    self._whole[hash(tuple(said))].append((number, row))
                    keys.append(runs(said))
                    numbers.append(np.full(len(keys[-1]), len(self._places)))
                    self._places.append((number, row))
        found, owner = np.concatenate(keys), np.concatenate(numbers)
        order = np.argsort(found)
        self._keys, self._owners = found[order], owner[order]

    def asked(self, prompt: str) -> tuple[set[Place], set[Place]]:
        """The questions that the prompt is, and those that it shares 13 words in a row with."""
        said = words(prompt)
        same = set(self._whole.get(hash(tuple(said)), ()))
        own = runs(said)
        first = np.searchsorted(self._keys, own, side="left")
        last = np.searchsorted(self._keys, own, side="right")
        found = [self._owners[first[i] : last[i]] for i in np.flatnonzero(last > first)]
        return same, same | {self._places[owner] for owners in found for owner in owners}


def words(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation and white space."""
    return WORD.findall(text.lower())


def runs(said: Sequence[str]) -> NDArray[np.uint64]:
    """A hash of each 13 words in a row: sum of hash(word i) * FACTOR^i, modulo 2^64."""
    hashes = np.fromiter(map(hash, said), np.int64, len(said)).view(np.uint64)
    count = max(len(said) - RUN + 1, 0)
    found = np.zeros(count, np.uint64)
    for place, factor in enumerate(POWERS if count else ()):
        found += hashes[place : place + count] * factor
    return found


def overlaps(prompts: Iterable[str], benchmarks: Sequence[Benchmark]) -> list[Overlap]:
    """Of every benchmark that shares a question with the prompts. Memory is that of the benchmarks, time is linear."""
    asked = _searchable(tuple(benchmarks))
    exact: set[Place] = set()
    shared: set[Place] = set()
    sharing: dict[int, int] = defaultdict(int)
    for prompt in prompts:
        same, like = asked.asked(prompt)
        exact |= same
        shared |= like
        for number in {number for number, _ in like}:
            sharing[number] += 1
    return [
        Overlap(
            benchmark=benchmark,
            exact=sum(place[0] == number for place in exact),
            run=sum(place[0] == number for place in shared),
            prompts=sharing[number],
        )
        for number, benchmark in enumerate(benchmarks)
        if sharing[number]
    ]


@functools.lru_cache(maxsize=2)
def _searchable(benchmarks: tuple[Benchmark, ...]) -> Questions:
    return Questions(benchmarks)
