"""The check after every weight sync: engine and trainer must give a fixed probe the same log-probs.

It catches an engine that computes something else than the trainer (wrong merge, wrong layer, wrong position codes).
It cannot catch weights that are one small update old: in bfloat16 such an update moves log-probs less than the two
implementations differ by rounding (docs/engines.md). Engines prove that separately, by exact comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from alignkit.errors import DataError, SyncError

SENTENCES = (
    "The quick brown fox jumps over the lazy dog near the bank of the river.",
    "Two plus three equals five, and five times four equals twenty.",
    "Paris is the capital of France, and Rome is the capital of Italy.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))",
)
LENGTH = 24  # tokens of a probe sequence at most


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """How far engine and trainer differ on the probe: mean and largest |log-prob difference|, in nats."""

    mean_gap: float
    max_gap: float


def probe(tokenizer: Any, *, vocab_size: int, seed: int) -> list[list[int]]:
    """Four fixed sequences of at most LENGTH token ids.

    Plain sentences where the tokenizer has tokens for them, because rounding is amplified on text that the model finds
    absurd; else random ids by the seed.
    """
    try:
        sequences = [tokenizer(sentence, add_special_tokens=False).input_ids[:LENGTH] for sentence in SENTENCES]
    except DataError:  # a character tokenizer without letters
        sequences = []
    if sequences and all(len(sequence) > 1 and max(sequence) < vocab_size for sequence in sequences):
        return sequences
    random = np.random.Generator(np.random.Philox(key=seed))
    return random.integers(vocab_size, size=(len(SENTENCES), LENGTH)).tolist()


def check(
    engine_logprobs: Sequence[Sequence[float]],
    trainer_logprobs: Sequence[Sequence[float]],
    *,
    tolerance: float,
    version: int,
) -> CanaryReport:
    """Compares log-probs of the probe's tokens, sequence by sequence.

    tolerance: largest allowed mean |difference|. version: of the weights, for the message.
    Raises SyncError when they differ by more, are not finite, or do not cover the same tokens.
    """
    counts = [len(sequence) for sequence in engine_logprobs], [len(sequence) for sequence in trainer_logprobs]
    if counts[0] != counts[1] or not sum(counts[0]):
        raise SyncError(
            f"canary: for version {version} the engine scored {counts[0]} tokens, the trainer {counts[1]}; "
            "give both the same probe"
        )
    pairs = zip(chain.from_iterable(engine_logprobs), chain.from_iterable(trainer_logprobs), strict=True)
    gaps = [abs(ours - theirs) for ours, theirs in pairs]
    report = CanaryReport(mean_gap=math.fsum(gaps) / len(gaps), max_gap=max(gaps))
    if not report.mean_gap <= tolerance:  # also when it is NaN
        raise SyncError(
            f"canary: after the sync to version {version} engine and trainer differ by {report.mean_gap:.3g} nats a "
            f"token on the probe (largest {report.max_gap:.3g}), allowed {tolerance:g}: the engine does not compute "
            "with the trainer's weights; run with rollouts.engine: hf to see which is wrong, and raise "
            "rollouts.canary_tolerance only if the gap is there before the first update too"
        )
    return report
