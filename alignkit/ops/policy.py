"""Policy-gradient surrogates per token, and the critic's loss, to be minimised. All arguments lie on one token axis."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_LOG_RATIO = 20.0  # exp(20) = 4.9e8: beyond it a ratio is infinite for every purpose, and must not overflow


def ratio(logprobs: Float[Tensor, " n"], old_logprobs: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """exp(logprobs - old_logprobs), the log clamped to +-20."""
    return (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def sequence_ratio(
    logprobs: Float[Tensor, " n"], old_logprobs: Float[Tensor, " n"], segment: Int[Tensor, " n"], num_sequences: int
) -> Float[Tensor, " n"]:
    """GSPO (arXiv 2507.18071): s_i = exp(mean_t (logprobs - old_logprobs)), written on each token of sequence i.

    Token form with the same value and gradient: s_it = sg[s_i] exp(l_t - sg[l_t]), which allows token-wise advantages.
    """
    difference = (logprobs - old_logprobs).detach()
    length = torch.bincount(segment, minlength=num_sequences).clamp(min=1)
    mean = difference.new_zeros(num_sequences).index_add(0, segment, difference) / length
    shared = mean.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()[segment]
    return shared * (logprobs - logprobs.detach()).exp()


def clipped(
    ratio: Float[Tensor, " n"], advantages: Float[Tensor, " n"], *, low: float, high: float, dual: float | None = None
) -> Float[Tensor, " n"]:
    """PPO (arXiv 1707.06347): -min(r A, clip(r, low, high) A); for A < 0 at most -dual A (arXiv 1912.09729)."""
    loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    if dual is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual * advantages), loss)


def cispo(
    ratio: Float[Tensor, " n"], logprobs: Float[Tensor, " n"], advantages: Float[Tensor, " n"], *, cap: float
) -> Float[Tensor, " n"]:
    """CISPO (arXiv 2506.13585): -sg[min(r, cap)] A l. Every token keeps a gradient; `cap` is the largest weight."""
    return -ratio.detach().clamp(max=cap) * advantages * logprobs


def soft_gate(
    ratio: Float[Tensor, " n"], advantages: Float[Tensor, " n"], positive: float, other: float
) -> Float[Tensor, " n"]:
    """SAPO (arXiv 2511.20347): -A 4 / tau sigmoid(tau (r - 1)), a clip that fades; its slope at r = 1 is -A.

    positive, other: tau where A > 0 and elsewhere; the larger, the sooner the gradient fades.
    """
    tau = torch.where(advantages > 0, positive, other)
    return -advantages * 4 / tau * (tau * (ratio - 1)).sigmoid()


def correction(
    old_logprobs: Float[Tensor, " n"],
    sampler_logprobs: Float[Tensor, " n"],
    *,
    how: Literal["none", "truncate", "mask"],
    floor: float,
    cap: float,
) -> Float[Tensor, " n"]:
    """Importance weight w = exp(old - sampler) for the gap between trainer and sampler; a constant, never a gradient.

    none: 1. truncate: min(w, cap), truncated importance sampling. mask: w inside [floor, cap], 0 outside (IcePop).
    """
    if how == "none":
        return torch.ones_like(old_logprobs)
    weight = ratio(old_logprobs, sampler_logprobs).detach()
    return weight.clamp(max=cap) if how == "truncate" else weight * ((weight >= floor) & (weight <= cap))


def clipped_value(
    values: Float[Tensor, "*n"], old_values: Float[Tensor, "*n"], returns: Float[Tensor, "*n"], *, clip: float | None
) -> Float[Tensor, "*n"]:
    """PPO's critic loss: max((V - R)^2, (V' - R)^2) / 2, V' = V within `clip` of V_old; clip None: (V - R)^2 / 2."""
    loss = (values - returns) ** 2
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (near - returns) ** 2)
    return loss / 2
