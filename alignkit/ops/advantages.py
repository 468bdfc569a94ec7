"""From rewards to advantages of tokens: what each token is paid, generalised advantage estimation, and whitening.

Entries outside a mask can hold anything, even NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from alignkit.types.batch import Batch


def mean(values: Float[Tensor, " n"], mask: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean of the masked values, to the last bit their common value where all are equal; 0 when the mask is empty."""
    chosen = values[mask]
    low = chosen.detach().amin() if len(chosen) else values.new_zeros(())
    return low + (chosen - low).sum() / mask.sum().clamp(min=1)


def var(values: Float[Tensor, " n"], mask: Bool[Tensor, " n"], *, unbiased: bool = False) -> Float[Tensor, ""]:
    """Variance of the masked values: population, or with the n-1 divisor when `unbiased`; 0 for fewer than 2."""
    centred = values[mask] - mean(values, mask)
    return (centred**2).sum() / (mask.sum() - int(unbiased)).clamp(min=1)


def whiten(
    values: Float[Tensor, " n"], mask: Bool[Tensor, " n"], *, keep_mean: bool = False, eps: float = 1e-8
) -> Float[Tensor, " n"]:
    """(values - mean) / sqrt(var + eps) over the mask (population variance), 0 outside; optionally keeps the mean."""
    centre = mean(values, mask)
    scaled = (values - centre) / (var(values, mask) + eps).sqrt() + (centre if keep_mean else 0.0)
    return scaled.where(mask, 0.0)


def gae(
    rewards: Float[Tensor, " action"],
    values: Float[Tensor, " action"],
    final_values: Float[Tensor, " sequence"],
    segment: Int[Tensor, " action"],
    *,
    discount: float | Float[Tensor, " action"],
    trace: float,
) -> Float[Tensor, " action"]:
    """GAE (arXiv 1506.02438): A_t = delta_t + discount trace A_t+1, delta_t = r_t + discount V_t+1 - V_t.

    All token arguments lie on the axis of action tokens, in the order of their sequences, so the next token is the next
    one that the policy chose: what tools and environments wrote in between takes no discount. values: of the state
    before each token. final_values: of the state after the last one, 0 where the sequence came to its end. segment:
    sequence of each token. discount: of what follows, one for all or each token's. Returns (their sums with `values`
    are the critic's targets).
    """
    length = torch.bincount(segment, minlength=len(final_values))
    position = torch.arange(len(segment), device=segment.device) - (length.cumsum(0) - length)[segment]
    rows, columns = len(length), int(length.max()) if len(segment) else 0
    paid, known, result = (rewards.new_zeros(rows, columns) for _ in range(3))
    paid[segment, position], known[segment, position] = rewards, values
    rates = [discount] * columns
    if isinstance(discount, Tensor):
        rates = list(torch.zeros_like(paid).index_put((segment, position), discount).T)
    following, running = final_values.to(rewards), rewards.new_zeros(rows)
    for t in reversed(range(columns)):
        inside = t < length
        step = paid[:, t] + rates[t] * following - known[:, t] + rates[t] * trace * running
        running = torch.where(inside, step, running)
        following = torch.where(inside, known[:, t], following)
        result[:, t] = running
    return result[segment, position]


def paid(batch: Batch, *, kl_weight: float = 0.0, missing_eos_penalty: float = 0.0) -> Float[Tensor, " action"]:
    """r_t = reward placed at t - kl_weight (l_old_t - l_ref_t); a cut completion's last token pays the penalty.

    A kl_weight that adapts (`batch.controls`) takes the place of the given one.
    Raises BatchError when kl_weight is not 0 and old_logprobs or ref_logprobs are missing.
    """
    mask, last = batch.action_mask, batch.last_action()
    rewards = batch.placed_rewards().clone()
    cut = last[batch.truncated & (last >= 0)]
    rewards[cut] -= missing_eos_penalty
    kl_weight = batch.controls.get("kl_weight", kl_weight)
    if kl_weight:
        rewards = rewards - kl_weight * (batch.require("old_logprobs") - batch.require("ref_logprobs"))
    return rewards[mask]
