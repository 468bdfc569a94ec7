"""ESRL's filter (arXiv 2308.02223): completions that the policy was sure of have little to teach, and are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from alignkit.ops import groups, preference
from alignkit.train.hooks.hook import Hook
from alignkit.types.batch import Batch


@dataclass(frozen=True, kw_only=True)
class ConfidenceFilter(Hook):
    """Trains without the given share of a step's rollouts, those of the largest mean log-prob when they were sampled.

    The number that leaves is rounded down; of equally sure ones the first in the batch leave. What an algorithm
    estimated from all of them, baselines and advantages, stays as it is.
    """

    name: ClassVar[str] = "confidence"
    share: float

    def after_estimate(self, batch: Batch) -> Batch:
        rollouts = groups.rollouts(batch)
        leaving = int(self.share * len(rollouts.first))
        if not leaving:
            return batch
        sure = preference.pool(batch.require("sampler_logprobs"), batch, "mean")[rollouts.first]
        staying = sure.argsort(descending=True, stable=True)[leaving:]
        return batch.select(torch.isin(rollouts.of, staying).nonzero().flatten().tolist())
