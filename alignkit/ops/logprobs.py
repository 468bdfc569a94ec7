"""Log-probs and entropies of chosen tokens from hidden states, without ever holding the logits of all rows."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class _ChunkedLogprobs(torch.autograd.Function):
    """Forward keeps one number per row (the log-normaliser); backward recomputes the logits of one chunk at a time."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, rows):
        logprobs = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        entropy, normaliser = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for begin in range(0, hidden.shape[0], rows):
            part = slice(begin, begin + rows)
            logits = (hidden[part] @ weight.t()).float().div_(temperature)
            normaliser[part] = logits.logsumexp(-1)
            logprobs[part] = logits.gather(-1, targets[part, None]).squeeze(-1) - normaliser[part]
            logs = logits.sub_(normaliser[part, None])
            entropy[part] = -logs.exp().mul_(logs).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, normaliser)
        ctx.temperature, ctx.rows = temperature, rows
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad_logprobs = grads[0]
        hidden, weight, targets, normaliser = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for begin in range(0, hidden.shape[0], ctx.rows):
            part = slice(begin, begin + ctx.rows)
            # d logprob / d logit_j = (1[j = target] - p_j) / temperature
            scale = (grad_logprobs[part] / ctx.temperature)[:, None]
            grad_logits = (hidden[part] @ weight.t()).float().div_(ctx.temperature).sub_(normaliser[part, None])
            grad_logits.exp_().mul_(-scale).scatter_add_(-1, targets[part, None], scale)
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight += (grad_logits.t() @ hidden[part]).float()
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def chunked_logprobs(
    hidden: Float[Tensor, "row width"],
    weight: Float[Tensor, "vocab width"],
    targets: Int[Tensor, " row"],
    *,
    temperature: float = 1.0,
    rows: int = 256,
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """log softmax(hidden @ weight.T / temperature)[target] and the entropy of that softmax, per row, in float32.

    hidden and weight share a dtype; matmuls run in it, the softmax in float32. At most `rows` rows of logits exist at a
    time, in forward and backward. The log-probs carry gradients to hidden and weight; the entropy is detached.
    """
    return _ChunkedLogprobs.apply(hidden, weight, targets, temperature, rows)


def full_logprobs(
    logits: Float[Tensor, "row vocab"], targets: Int[Tensor, " row"], *, temperature: float = 1.0
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """The same from logits that already exist: the plain path that the chunked one is verified against."""
    logs = (logits.float() / temperature).log_softmax(-1)
    entropy = -(logs.detach().exp() * logs.detach()).sum(-1)
    return logs.gather(-1, targets[:, None]).squeeze(-1), entropy
