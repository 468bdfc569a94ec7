"""How the answers changed beside their scores: longer, more repetitive, less varied, better only by the proxy."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
from numpy.random import Generator, Philox

from alignkit.evaluate.results.before_after import Comparison, compare
from alignkit.evaluate.results.eval_folder import EvalResult, Sample
from alignkit.types.seeds import child

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
REPEATED = 4  # n-gram size by which an answer counts as repeating itself
BLEU_SIZE = 4
BLEU_TEXTS = 100  # self-BLEU compares every text with every other, so it takes a seeded sample of this many
PERMUTATIONS = 200
DISTINCT_TASKS = 400  # distinct-n and self-BLEU look at a seeded sample of this many tasks
STOPPED_BY_LIMIT = ("length", "context_full")

Trend = Literal["up", "down", "no detectable change", "not tested"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One property of the answers on both sides, over the same tasks. p_value: that swapping the sides task by task
    gives as large a difference; None where that was not tested."""

    name: str
    meaning: str
    before: float
    after: float
    p_value: float | None
    trend: Trend


def drift(before: EvalResult, after: EvalResult, *, seed: int = 0, significance: float = 0.05) -> list[Drift]:
    """Length, truncation, repetition, distinct-n and self-BLEU of two sets of answers to the same tasks.

    Empty when the two share no task. Texts of a task are cut to the words that the shorter side has there before
    distinct-n and self-BLEU, because both fall with length alone.
    """
    pairs = _paired_answers(before.samples, after.samples)
    rows = [
        _mean_drift(name, meaning, pairs, measure, seed, significance)
        for name, meaning, measure in (
            ("length", "mean length of an answer, in words", lambda answer: float(len(answer.words))),
            ("truncated", "share of answers cut by a limit", lambda answer: float(answer.truncated)),
            ("repetition", "share of an answer's 4-grams seen before in it", lambda answer: repetition(answer.words)),
        )
        if pairs
    ]
    if len(pairs) > DISTINCT_TASKS:
        random = Generator(Philox(key=child(seed, "drift tasks")))
        pairs = [pairs[index] for index in sorted(random.permutation(len(pairs))[:DISTINCT_TASKS])]
    texts = [_cut_alike(olds, news) for olds, news in pairs]
    rows += [_distinct_drift(texts, size, seed, significance) for size in (1, 2, 3) if texts]
    old, new = (self_bleu([text for pair in texts for text in pair[side]], seed=seed) for side in (0, 1))
    if old is not None and new is not None:
        meaning = "mean BLEU-4 of an answer against the others: 1 is always the same"
        rows.append(Drift(name="self-BLEU", meaning=meaning, before=old, after=new, p_value=None, trend="not tested"))
    return rows


@dataclass(frozen=True, slots=True)
class Answer:
    """What drift looks at of a sample."""

    words: list[str]
    truncated: bool


def words(text: str) -> list[str]:
    """Words and punctuation marks, in lower case."""
    return WORD.findall(text.lower())


def repetition(tokens: Sequence[str], *, size: int = REPEATED) -> float:
    """Share of n-grams that occurred earlier in the same text; 0 for texts shorter than one."""
    total = len(tokens) - size + 1
    return 1 - len(set(_ngrams(tokens, size))) / total if total > 0 else 0.0


def distinct(texts: Sequence[Sequence[str]], size: int) -> float | None:
    """distinct-n: different n-grams over all n-grams of the texts together; None without any (arXiv 1510.03055)."""
    grams = [gram for tokens in texts for gram in _ngrams(tokens, size)]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[Sequence[str]], *, seed: int = 0, limit: int = BLEU_TEXTS) -> float | None:
    """Mean BLEU-4 of every text against all others as references (arXiv 1802.01886); None for fewer than 2 texts.

    At most `limit` texts take part, chosen by the seed alone. Counts of n-grams above 1 have 1 added (Lin and Och
    2004), because one missing 4-gram would make a short text's BLEU 0. Empty texts are left out.
    """
    texts = [tokens for tokens in texts if tokens]
    if len(texts) > limit:
        random = Generator(Philox(key=child(seed, "self_bleu")))
        texts = [texts[index] for index in sorted(random.permutation(len(texts))[:limit])]
    if len(texts) < 2:
        return None
    counts = [[Counter(_ngrams(tokens, size)) for tokens in texts] for size in range(1, BLEU_SIZE + 1)]
    highest = [_two_highest(by_text) for by_text in counts]
    lengths = [len(tokens) for tokens in texts]
    scores = []
    for index in range(len(texts)):
        logs = [_log_precision(counts[n][index], highest[n], n) for n in range(BLEU_SIZE)]
        others = lengths[:index] + lengths[index + 1 :]
        closest = min(others, key=lambda length: (abs(length - lengths[index]), length))
        brevity = min(0.0, 1 - closest / lengths[index])
        scores.append(math.exp(brevity + fmean(logs)))
    return fmean(scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardHacking:
    """Whether a proxy rose while what it stands for did not. verdict: one of four fixed phrases."""

    proxy: Comparison
    gold: Comparison
    verdict: Literal["reward hacking", "proxy gain not seen in gold", "gold gains with the proxy", "proxy did not rise"]


def reward_hacking(proxy: Comparison, gold: Comparison) -> RewardHacking:
    """Proxy better and gold worse is reward hacking. Both: before against after training."""
    if proxy.verdict != "better":
        verdict = "proxy did not rise"
    elif gold.verdict == "worse":
        verdict = "reward hacking"
    else:
        verdict = "gold gains with the proxy" if gold.verdict == "better" else "proxy gain not seen in gold"
    return RewardHacking(proxy=proxy, gold=gold, verdict=verdict)


def _paired_answers(before: Sequence[Sample], after: Sequence[Sample]) -> list[tuple[list[Answer], list[Answer]]]:
    """(answers before, answers after) of every task that both sides answered, equally many."""
    sides: list[dict[str, list[Answer]]] = [{}, {}]
    for side, samples in zip(sides, (before, after), strict=True):
        for sample in samples:
            answer = Answer(words(sample.completion), sample.stop in STOPPED_BY_LIMIT)
            side.setdefault(sample.task_id, []).append(answer)
    olds, news = sides
    counts = {task: min(len(olds[task]), len(news[task])) for task in olds if task in news}
    return [(olds[task][:count], news[task][:count]) for task, count in counts.items()]


def _mean_drift(
    name: str, meaning: str, pairs: Sequence, measure: Callable[[Answer], float], seed: int, significance: float
) -> Drift:
    means = [[fmean(measure(answer) for answer in side) for side in pair] for pair in pairs]
    result = compare([old for old, _ in means], [new for _, new in means], seed=seed, draws=2000)
    trend = _trend(result.difference, result.p_value, significance)
    return Drift(
        name=name, meaning=meaning, before=result.before, after=result.after, p_value=result.p_value, trend=trend
    )


def _cut_alike(olds: Sequence[Answer], news: Sequence[Answer]) -> tuple[list[list[str]], list[list[str]]]:
    """The texts' words, each pair of answers cut to the shorter of the two."""
    pairs = [(old.words, new.words) for old, new in zip(olds, news, strict=True)]
    return [old[: len(new)] for old, new in pairs], [new[: len(old)] for old, new in pairs]


def _distinct_drift(texts: Sequence, size: int, seed: int, significance: float) -> Drift:
    """distinct-n of both sides, tested by swapping the sides of whole tasks."""
    codes: dict[tuple[str, ...], int] = {}
    sides = [
        [
            np.array(
                [codes.setdefault(g, len(codes)) for tokens in side for g in _ngrams(tokens, size)], dtype=np.int64
            )
            for side in pair
        ]
        for pair in texts
    ]

    def share(chosen: np.ndarray) -> float:
        grams = np.concatenate([pair[side] for pair, side in zip(sides, chosen, strict=True)])
        return float(np.count_nonzero(np.bincount(grams, minlength=1)) / grams.size) if grams.size else 0.0

    ones = np.ones(len(sides), dtype=np.int64)
    old, new = share(0 * ones), share(ones)
    random = Generator(Philox(key=child(seed, "distinct", size)))
    extreme = 0
    for _ in range(PERMUTATIONS if codes else 0):
        swapped = random.integers(2, size=len(sides))
        extreme += int(abs(share(1 - swapped) - share(swapped)) >= abs(new - old) - 1e-12)
    p_value = (1 + extreme) / (1 + PERMUTATIONS) if codes else 1.0
    return Drift(
        name=f"distinct-{size}",
        meaning=f"different {size}-grams over all, texts cut to equal length",
        before=old,
        after=new,
        p_value=p_value,
        trend=_trend(new - old, p_value, significance),
    )


def _trend(difference: float, p_value: float, significance: float) -> Trend:
    if p_value >= significance or difference == 0:
        return "no detectable change"
    return "up" if difference > 0 else "down"


def _ngrams(tokens: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[start:] for start in range(size)), strict=False))


def _two_highest(counts: Sequence[Counter]) -> dict[tuple[str, ...], tuple[int, int]]:
    """The two highest counts of every n-gram over the texts: leaving out one text leaves one of them as the maximum."""
    highest: dict[tuple[str, ...], tuple[int, int]] = {}
    for counter in counts:
        for gram, count in counter.items():
            first, second = highest.get(gram, (0, 0))
            highest[gram] = (max(first, count), max(second, min(first, count)))
    return highest


def _log_precision(counts: Counter, highest: dict[tuple[str, ...], tuple[int, int]], size_index: int) -> float:
    """Log of the clipped precision of a text's n-grams against all other texts."""
    hits = total = 0
    for gram, count in counts.items():
        first, second = highest[gram]
        # the text itself holds the maximum: the others' maximum is the second (equal to it when two texts share it)
        others = second if count == first else first
        hits += min(count, others)
        total += count
    added = int(size_index > 0)
    return math.log((hits + added) / (total + added)) if hits + added else -math.inf
