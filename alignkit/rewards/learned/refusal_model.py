"""The refusal classifier: plain rules for clear cases, a small softmax regression for the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.errors import ContentError
from alignkit.rewards.learned.refusal_features import NAMES, declines_outright, features, is_incoherent

CLASSES = ("complied", "full", "partial")


class RefusalModel:
    """weights: names, mean, spread and weights of the features, as refusal_training.py writes them."""

    def __init__(self, weights: Mapping[str, Any]):
        if tuple(weights["names"]) != NAMES:
            raise ContentError(
                "the refusal classifier's weights are of other features than this version computes; "
                "train them anew: python -m alignkit.rewards.learned.refusal_training FOLDER"
            )
        self._mean: Sequence[float] = weights["mean"]
        self._spread: Sequence[float] = weights["spread"]
        *self._weights, self._bias = weights["weights"]

    def classify(self, completion: str) -> str:
        """`complied`, `full` or `partial` (a refusal with an answer in it); a coherent completion is assumed."""
        values = features(completion)
        if declines_outright(values):
            return "full"
        complied, full, partial = self._chances(values)
        if complied > 0.5:
            return "complied"
        return "full" if full >= partial else "partial"

    def label(self, completion: str) -> str:
        """The same, or `incoherent`."""
        return "incoherent" if is_incoherent(completion) else self.classify(completion)

    def chances(self, completion: str) -> list[float]:
        """The classifier's probability of each of CLASSES."""
        return self._chances(features(completion))

    def _chances(self, values: Sequence[float]) -> list[float]:
        inputs = [(v - mean) / spread for v, mean, spread in zip(values, self._mean, self._spread, strict=True)]
        scores = [
            bias + math.fsum(value * row[number] for value, row in zip(inputs, self._weights, strict=True))
            for number, bias in enumerate(self._bias)
        ]
        top = max(scores)
        weights = [math.exp(score - top) for score in scores]
        return [weight / sum(weights) for weight in weights]
