"""Losses of reward models from ratings. NaN is a rating that is missing: its loss is 0 and has no slope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

if TYPE_CHECKING:
    from alignkit.types.batch import Batch


def stack(batch: Batch, objectives: Sequence[str]) -> Float[Tensor, "sequence objective"]:
    """The ratings of a batch, from its channels; NaN where an answer, or every answer of the batch, has none."""
    missing = torch.full_like(batch.reward, torch.nan)
    return torch.stack([batch.channels.get(name, missing) for name in objectives], -1)


def squared(scores: Float[Tensor, "*batch"], ratings: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """(score - rating)^2."""
    known = ~ratings.isnan()
    return torch.where(known, (scores - torch.where(known, ratings, scores.detach())) ** 2, 0.0)


def logistic(logits: Float[Tensor, "*batch"], ratings: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """-y log s - (1 - y) log(1 - s), s = sigmoid(logit): ratings are shares, or labels 0 and 1."""
    known = ~ratings.isnan()
    loss = binary_cross_entropy_with_logits(logits, torch.where(known, ratings, 0.0), reduction="none")
    return torch.where(known, loss, 0.0)
