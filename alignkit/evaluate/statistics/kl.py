"""How far a trained model has moved from its base: KL(policy || base), estimated on the policy's own samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from alignkit.errors import DataError
from alignkit.evaluate.benchmark.answers import AnsweringEngine

Answer = tuple[Sequence[int], Sequence[int]]
"""(prompt ids, completion ids)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """KL in nats. per_answer: mean over answers of log policy - log base; standard_error: of it, None for one answer.
    per_token: the same total over all completion tokens."""

    per_answer: float
    per_token: float
    standard_error: float | None
    answers: int
    tokens: int


async def kl_from_base(policy: AnsweringEngine, base: AnsweringEngine, answers: Sequence[Answer]) -> Divergence:
    """KL of two engines on answers that `policy` sampled at temperature 1; then the estimate is unbiased.

    On answers of another temperature (greedy ones, say) it is the mean log ratio on these answers and no KL.
    Raises DataError without answers, or when all of them are empty.
    """
    kept = [(list(prompt), list(completion)) for prompt, completion in answers if completion]
    if not kept:
        raise DataError(f"a KL needs answers with at least one token; got {len(answers)} answers")
    whole = [prompt + completion for prompt, completion in kept]
    ours, theirs = await policy.score(whole), await base.score(whole)
    ratios = [
        [old - new for old, new in zip(p[-len(completion) :], q[-len(completion) :], strict=True)]
        for p, q, (_, completion) in zip(ours, theirs, kept, strict=True)
    ]
    return divergence(ratios)


def divergence(log_ratios: Sequence[Sequence[float]]) -> Divergence:
    """The estimate from log policy - log base of every completion token, one list an answer."""
    totals = [math.fsum(row) for row in log_ratios]
    tokens = sum(len(row) for row in log_ratios)
    error = stdev(totals) / math.sqrt(len(totals)) if len(totals) > 1 else None
    return Divergence(
        per_answer=fmean(totals),
        per_token=math.fsum(totals) / tokens,
        standard_error=error,
        answers=len(totals),
        tokens=tokens,
    )
