"""PPO's early stop: no more minibatches of a step once the policy has gone far enough from where it began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from alignkit.train.hooks.hook import Hook
from alignkit.types.metric import Metric


@dataclass(frozen=True, kw_only=True)
class KlLimit(Hook):
    """Stops when KL(old || now) per token, measured on the latest minibatch, is above `limit`.

    A recipe check sees to it that there are several minibatches, and so old log-probs to measure from.
    """

    name: ClassVar[str] = "kl_limit"
    limit: float

    def is_enough(self, metrics: Mapping[str, Metric]) -> bool:
        return (metrics["policy/kl_update"].value or 0.0) > self.limit
