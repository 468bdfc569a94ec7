"""What a model says about a batch, what an algorithm makes of it to minimise, and how a reward model is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alignkit.types.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A sum and a count, never a mean: the step alone divides, by the count over all ranks and micro-batches.

    total: scalar tensor, the sum of the per-unit losses. count: number of units, known from the batch alone (it must
    not depend on the model's outputs; the step checks this). metrics: detached, each saying how it combines.
    """

    total: Tensor
    count: float
    metrics: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a model said about a batch, on the packed token axis, indexed by the predicted token.

    logprobs: log-prob of each action token at the sampling temperature, 0 elsewhere; carries the gradient.
    entropy: entropy of the distribution each action token was drawn from, 0 elsewhere; carries a gradient too.
    normaliser: logsumexp of the logits (over the temperature) of that distribution, 0 elsewhere; with a gradient.
    values: (token, head) of a critic: its numbers for the state that ends with each token, prompts included.
    ref_kl: KL(reference || policy) of the distributions each action token was drawn from, over the whole vocabulary, 0
        elsewhere; its gradient is the policy's. There where the algorithm `needs` "ref_kl".

    A model is asked for what its losses read: a critic of its own gives no log-probs, a policy alone no values.
    """

    logprobs: Tensor = None  # ty: ignore[invalid-assignment]  absent only where no loss of this model reads it
    entropy: Tensor = None  # ty: ignore[invalid-assignment]
    normaliser: Tensor = None  # ty: ignore[invalid-assignment]
    values: Tensor = None  # ty: ignore[invalid-assignment]
    ref_kl: Tensor = None  # ty: ignore[invalid-assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a trained reward model says of each sequence of a batch, in the words of `alignkit.types.score.Score`.

    value: the reward. parts: its objectives, by name. spread: quantiles at the levels j / (M + 1). members: of an
    ensemble. steps: on the token axis, what adds up over a step's tokens to the step's value.
    """

    value: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    spread: Tensor | None = None
    members: Tensor | None = None
    steps: Tensor | None = None
