"""Sentences on how long completions are."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean


def mean_length(completions: Sequence[Sequence[int]]) -> str:
    """The mean number of tokens of completions, of which there is at least one."""
    return f"mean tokens of {len(completions)} completions {fmean(map(len, completions)):.1f}"


def two_lengths(good: Sequence[Sequence[int]], bad: Sequence[Sequence[int]]) -> str:
    """The mean numbers of tokens of two sorts of completions, a first look at length bias."""
    of_bad = f"of {len(bad)} rejected {fmean(map(len, bad)):.1f}"
    return f"mean tokens of {len(good)} chosen completions {fmean(map(len, good)):.1f}, {of_bad}"
