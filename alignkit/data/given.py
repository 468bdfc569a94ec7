"""The rows of a stage that learns from given completions with a judgement, whatever kind of judgement it is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from alignkit.data.pairs import Sieve, describe, make_duels, make_judged, make_pairs, make_rewritten
from alignkit.data.ratings import make_ranked, make_rated, make_stepped
from alignkit.types.task import Task

KINDS = ("pairs", "duels", "judged", "rewrites", "ranked", "rated", "steps")
UNITS = {"pairs": "pairs", "duels": "pairs", "ranked": "rankings"}  # what a row is called in reports; else a completion


def make_rows(kind: str, prompts: Sequence[tuple[Task, list[int]]], sieve: Sieve, *, seed: int, tag: str) -> list[Any]:
    """The rows of `kind` that can be learnt from; raises DataError when none is left.

    seed: of the mismatched completions of judged ones. tag: put after each of the steps.
    """
    if kind == "judged":
        return make_judged(prompts, sieve, seed=seed)
    if kind == "steps":
        return make_stepped(prompts, sieve, tag=tag)
    if kind == "rewrites":
        return make_rewritten(prompts, sieve)
    return {"pairs": make_pairs, "duels": make_duels, "ranked": make_ranked, "rated": make_rated}[kind](prompts, sieve)


def describe_rows(kind: str, rows: Sequence[Any]) -> str:
    """How long the completions are."""
    if kind in ("pairs", "duels", "judged"):
        return describe(rows)
    lengths = [len(ids) for row in rows for ids in getattr(row, "completions", None) or (row.completion,)]
    return f"mean tokens of {len(lengths)} completions {fmean(lengths):.1f}"
