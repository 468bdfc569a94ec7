"""What every policy gradient is made of, taken from outputs and batch once, and weighed and reported in one way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float
from torch import Tensor

from alignkit.ops import kl, policy
from alignkit.types.metric import Max, Mean, Metric

if TYPE_CHECKING:
    from alignkit.types.batch import Batch
    from alignkit.types.outputs import Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTerms:
    """Numbers on one axis, the batch's action tokens in packed order or its sequences.

    logprobs and entropy are the policy's and carry its gradient. old: log-probs of the policy that the update phase
    began with. sampler: those of the engine. reference: those of the reference; None where a batch has none.
    """

    logprobs: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]
    advantages: Float[Tensor, " n"]
    old: Float[Tensor, " n"]
    sampler: Float[Tensor, " n"]
    reference: Float[Tensor, " n"] | None

    @property
    def ratio(self) -> Float[Tensor, " n"]:
        """pi / pi_old, with the gradient of the log-probs."""
        return policy.ratio(self.logprobs, self.old)

    def per_sequence(self, batch: Batch) -> PolicyTerms:
        """A completion as one action: log-probs and entropy are sums over its tokens, the advantage is their mean.

        self: on the action tokens of `batch`.
        """
        segment, length = batch.segment[batch.action_mask], batch.actions_per_sequence().clamp(min=1)

        def total(values: Tensor) -> Tensor:
            return values.new_zeros(batch.num_sequences).index_add(0, segment, values)

        return PolicyTerms(
            logprobs=total(self.logprobs),
            entropy=total(self.entropy),
            advantages=total(self.advantages) / length,
            old=total(self.old),
            sampler=total(self.sampler),
            reference=None if self.reference is None else total(self.reference),
        )

    def weighed(
        self,
        loss: Float[Tensor, " n"],
        *,
        cap: float,
        floor: float = 0.0,
        how: Literal["none", "truncate", "mask"] = "truncate",
        entropy_weight: float = 0.0,
    ) -> Float[Tensor, " n"]:
        """w loss - entropy_weight entropy, w = ops.policy.correction for the gap between sampler and trainer."""
        loss = loss * policy.correction(self.old, self.sampler, how=how, floor=floor, cap=cap)
        return loss - entropy_weight * self.entropy if entropy_weight else loss

    @property
    def metrics(self) -> dict[str, Metric]:
        """Means of the KLs to sampler and reference and of the entropy."""
        means = {"kl_sampler": self.sampler - self.old, "entropy": self.entropy}
        if self.reference is not None:
            means["kl_reference"] = kl.k1(self.logprobs - self.reference)
        return {f"policy/{name}": Mean.of(each) for name, each in means.items()}


def clipping(ratio: Float[Tensor, " n"], *, low: float, high: float) -> dict[str, Metric]:
    """Metrics of a surrogate's ratios: the share outside [low, high], and the largest (at least 1)."""
    outside = Mean.of((ratio < low) | (ratio > high))
    return {"policy/clip_frac": outside, "policy/ratio_max": Max(max([1.0, *ratio.tolist()]))}


def policy_terms(outputs: Outputs, batch: Batch) -> PolicyTerms:
    """The terms of every action token. A batch without old log-probs is used once: the policy's own are the old ones.

    Raises BatchError when sampler_logprobs or advantages are missing.
    """
    mask = batch.action_mask
    logprobs = outputs.logprobs[mask]
    return PolicyTerms(
        logprobs=logprobs,
        entropy=outputs.entropy[mask],
        advantages=batch.require("advantages")[mask],
        old=logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs[mask],
        sampler=batch.require("sampler_logprobs")[mask],
        reference=None if batch.ref_logprobs is None else batch.ref_logprobs[mask],
    )
