"""What a model says about a batch, what an algorithm makes of it to minimise, and how a reward model is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alignkit.types.metric import Metric

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A sum and a count, never a mean: the step alone divides, by the count over all ranks and micro-batches.

    total: scalar tensor, the sum of the per-unit losses. count: number of units, known from the batch alone (it must
    not depend on the model's outputs; the step checks this). metrics: detached, each saying how it combines.
    """

    total: Float[Tensor, ""]
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
        elsewhere; its gradient is the policy's. There where the algorithm needs this output.

    A model is asked for what its losses read: a critic of its own gives no log-probs, a policy alone no values.
    """

    logprobs: Float[Tensor, " token"] = None  # ty: ignore[invalid-assignment]  absent only where no loss of this model reads it
    entropy: Float[Tensor, " token"] = None  # ty: ignore[invalid-assignment]
    normaliser: Float[Tensor, " token"] = None  # ty: ignore[invalid-assignment]
    values: Float[Tensor, "token head"] = None  # ty: ignore[invalid-assignment]
    ref_kl: Float[Tensor, " token"] = None  # ty: ignore[invalid-assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a trained reward model says of each sequence of a batch, in the words of `alignkit.types.score.Score`.

    value: the reward. parts: its objectives, by name. spread: quantiles at the levels j / (M + 1). members: of an
    ensemble. steps: on the token axis, what adds up over a step's tokens to the step's value.
    """

    value: Float[Tensor, " sequence"]
    parts: Mapping[str, Float[Tensor, " sequence"]] = field(default_factory=dict)
    spread: Float[Tensor, "sequence level"] | None = None
    members: Float[Tensor, "sequence member"] | None = None
    steps: Float[Tensor, " token"] | None = None
