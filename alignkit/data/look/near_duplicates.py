"""Texts that are nearly the same, by the Jaccard similarity of their runs of words, found with MinHash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignkit.types.seeds import child

WORD = re.compile(r"\w+")
SHINGLE = 3  # words
BANDS, ROWS = 20, 6
"""A pair of similarity s meets in some band with probability 1 - (1 - s^6)^20: .998 at .8, .014 at .3."""
ALIKE = 0.8


def near_duplicates(texts: Sequence[str], *, alike: float = ALIKE) -> list[list[int]]:
    """Groups of two and more texts, by their places: each is at least `alike` to another of its group.

    Similarity is |A n B| / |A u B| of the sets of all runs of 3 words (of all words where there are fewer). Candidates
    are those whose MinHash signatures agree in a band (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
    Datasets, 3.4); each is compared exactly with the first text of its bucket, so no group is a chance. Memory and time
    are linear in the texts; of 100 pairs that are just alike enough about two are missed.
    """
    sets = [shingles(text) for text in texts]
    group = list(range(len(texts)))

    def root(place: int) -> int:
        while group[place] != place:
            group[place] = place = group[group[place]]
        return place

    buckets: dict[tuple[int, bytes], int] = {}
    for place, own in enumerate(sets):
        if not len(own):
            continue
        signature = _signature(own)
        for band in range(BANDS):
            first = buckets.setdefault((band, signature[band].tobytes()), place)
            if root(first) != root(place) and jaccard(sets[first], own) >= alike:
                group[root(place)] = root(first)
    found: dict[int, list[int]] = {}
    for place in range(len(texts)):
        found.setdefault(root(place), []).append(place)
    return [places for places in found.values() if len(places) > 1]


def shingles(text: str) -> NDArray[np.uint64]:
    """The sorted hashes of the text's runs of 3 words, letters small, each once."""
    words = WORD.findall(text.lower())
    pieces = {" ".join(words[begin : begin + SHINGLE]) for begin in range(max(len(words) - SHINGLE + 1, 1))} - {""}
    digests = b"".join(hashlib.blake2b(piece.encode("utf-8", "replace"), digest_size=8).digest() for piece in pieces)
    return np.unique(np.frombuffer(digests, np.uint64))


def jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """|A n B| / |A u B| of two sets as sorted arrays; 0 where both are empty."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(len(one) + len(other) - shared, 1)


_random = np.random.Generator(np.random.Philox(key=child(0, "near_duplicates")))
_FACTORS = _random.integers(2**63, size=(BANDS * ROWS, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_SUMMANDS = _random.integers(2**63, size=(BANDS * ROWS, 1), dtype=np.uint64)


def _signature(own: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The least of 120 hashes of the set's members, in bands. An odd factor modulo 2^64 permutes; its high half is
    mixed well."""
    mixed = (own * _FACTORS + _SUMMANDS) >> np.uint64(32)
    return mixed.min(axis=1).reshape(BANDS, ROWS)
