"""Training prompts that a benchmark asks, too: by the whole question, and by 13 words in a row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

RUN = 13
"""Words: the length that GPT-3 (2005.14165) and most decontaminations since compare by."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """The questions of a file. protocols: who asks them. questions: of each row the texts that a prompt is made of."""

    file: str
    protocols: tuple[str, ...]
    questions: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How many of a benchmark's questions are trained on. exact: word by word. run: at least 13 words in a row."""

    benchmark: Benchmark
    exact: int
    run: int

    def __str__(self) -> str:
        of, who = len(self.benchmark.questions), ", ".join(self.benchmark.protocols)
        return (
            f"of the {of:,} questions of {self.benchmark.file} ({who}) {self.exact:,} are training prompts, "
            f"{self.run:,} share {RUN} words in a row with one: what these say of the trained model is not held out"
        )


@dataclass
class Prompts:
    """What is trained on, to be searched: all prompts by their words, and all runs of 13 words in them."""

    whole: set[tuple[str, ...]] = field(default_factory=set)
    runs: set[tuple[str, ...]] = field(default_factory=set)

    def add(self, text: str) -> None:
        said = words(text)
        self.whole.add(tuple(said))
        self.runs.update(runs(said))

    def overlap(self, benchmark: Benchmark) -> Overlap:
        exact = run = 0
        for texts in benchmark.questions:
            asked = [words(text) for text in texts]
            same = any(tuple(said) in self.whole for said in asked if said)
            exact += same
            run += same or any(one in self.runs for said in asked for one in runs(said))
        return Overlap(benchmark=benchmark, exact=exact, run=run)


def words(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation and white space."""
    return WORD.findall(text.lower())


def runs(said: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """All runs of 13 words."""
    return (tuple(said[begin : begin + RUN]) for begin in range(len(said) - RUN + 1))


def overlaps(prompts: Iterable[str], benchmarks: Iterable[Benchmark]) -> list[Overlap]:
    """Of every benchmark that shares a question with the prompts."""
    searched = Prompts()
    for prompt in prompts:
        searched.add(prompt)
    found = (searched.overlap(benchmark) for benchmark in benchmarks)
    return [overlap for overlap in found if overlap.exact or overlap.run]
