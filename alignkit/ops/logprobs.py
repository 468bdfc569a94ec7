"""Log-probs, entropies and divergences of next-token distributions, without ever holding the logits of all rows."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class _ChunkedLogprobs(torch.autograd.Function):
    """Logits exist one tile at a time: all rows, a slice of the vocabulary. Backward computes each tile again.

    Slices of the vocabulary, not of the rows: each part of the weight is read once and its gradient finished at once.
    A tile is normalised by itself with the fused softmax; its share of the whole follows when all tiles are known.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, softcap, rows):
        tiles = _tiles(hidden.shape[0], weight.shape[0], rows)
        normalisers = hidden.new_empty((len(tiles), hidden.shape[0]), dtype=torch.float32)
        entropies, chosen = torch.empty_like(normalisers), torch.zeros_like(normalisers[0])
        for number, tile in enumerate(tiles):
            logits = _logits(hidden, weight[tile], temperature, softcap)
            column, inside = _targets_in(tile, targets)
            chosen = torch.where(inside, logits.gather(-1, column).squeeze(-1), chosen)
            probabilities, largest = logits.softmax(-1), logits.amax(-1)
            excess = -probabilities.amax(-1).log()  # of the log-normaliser over the largest logit
            normalisers[number] = largest + excess
            # a sum of what is not negative: the difference of two large numbers would lose five digits
            entropies[number] = excess - probabilities.mul_(logits.sub_(largest[:, None])).sum(-1)
        normaliser = normalisers.logsumexp(0)
        log_shares = normalisers.log_softmax(0)
        shares = log_shares.exp()
        entropy = (shares * (entropies - log_shares)).sum(0)
        ctx.save_for_backward(hidden, weight, targets, shares, normaliser, entropy)
        ctx.temperature, ctx.softcap, ctx.tiles = temperature, softcap, tiles
        ctx.set_materialize_grads(False)  # most losses read no entropy and no normaliser: they then cost nothing
        return chosen - normaliser, entropy, normaliser

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, weight, targets, shares, normaliser, entropy = ctx.saved_tensors
        # a frozen head needs no gradient of its weight
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        scale = torch.zeros_like(normaliser) if grads[0] is None else grads[0] / ctx.temperature
        # d logprob / d logit_j = (1[j = target] - p_j) / temperature, d normaliser / d logit_j = p_j / temperature
        spread = scale if grads[2] is None else scale - grads[2] / ctx.temperature
        for tile, share in zip(ctx.tiles, shares, strict=True):
            logits = _logits(hidden, weight[tile], ctx.temperature, ctx.softcap)
            slope, grad_logits = _slope(logits, ctx.temperature, ctx.softcap), logits.softmax(-1)
            if grads[1] is None:
                grad_logits.mul_((-spread * share)[:, None])
            else:  # d entropy / d logit_j = -p_j (log p_j + entropy) / temperature
                pull = logits.sub_((normaliser - entropy)[:, None]).mul_((grads[1] / ctx.temperature)[:, None])
                grad_logits.mul_(share[:, None]).mul_(pull.add_(spread[:, None]).neg_())
            column, inside = _targets_in(tile, targets)
            grad_logits.scatter_add_(-1, column, torch.where(inside, scale, 0.0)[:, None])
            grad_logits = (grad_logits if slope is None else grad_logits.mul_(slope)).to(hidden.dtype)
            grad_hidden += grad_logits @ weight[tile]
            if grad_weight is not None:
                grad_weight[tile] = grad_logits.t() @ hidden
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None


def _tiles(num_rows: int, vocabulary: int, rows: int) -> list[slice]:
    """Slices of the vocabulary, each with about as many logits as `rows` whole rows."""
    width = max(1, min(vocabulary, rows * vocabulary // max(1, num_rows)))
    return [slice(begin, min(begin + width, vocabulary)) for begin in range(0, vocabulary, width)]


def _logits(hidden: Tensor, weight: Tensor, temperature: float, softcap: float | None) -> Tensor:
    logits = (hidden @ weight.t()).float()
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    return logits if temperature == 1 else logits.div_(temperature)


def _slope(logits: Tensor, temperature: float, softcap: float | None) -> Tensor | None:
    """d (logits x temperature) / d (hidden @ weight.T): 1 - tanh^2 of a soft cap; None where it is 1."""
    return None if softcap is None else 1 - (logits * (temperature / softcap)).square()


def _targets_in(tile: slice, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(the column of each row's target within the tile, whether it lies in it), found without asking the device."""
    inside = (targets >= tile.start) & (targets < tile.stop)
    return (targets - tile.start).clamp(0, tile.stop - tile.start - 1)[:, None], inside


def chunked_logprobs(
    hidden: Float[Tensor, "row width"],
    weight: Float[Tensor, "vocab width"],
    targets: Int[Tensor, " row"],
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    rows: int = 64,
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"], Float[Tensor, " row"]]:
    """log softmax(logits)[target], that softmax's entropy, and logsumexp(logits), per row, in float32.

    logits: x / temperature of x = hidden @ weight.T, or of c tanh(x / c) with a `softcap` c. hidden and weight share a
    dtype; matmuls run in it, the softmax in float32.
    At a time there are as many logits as `rows` rows have, in forward and backward; few enough for the cache is
    fastest. All three carry gradients to hidden and weight.
    """
    return _ChunkedLogprobs.apply(hidden, weight, targets, temperature, softcap, rows)


class _ChunkedKL(torch.autograd.Function):
    """Two heads tile by tile, by the chain rule of KL: of the tiles' shares, and within each tile."""

    @staticmethod
    def forward(ctx, hidden, weight, ref_hidden, ref_weight, temperature, softcap, rows):
        tiles = _tiles(hidden.shape[0], weight.shape[0], rows)
        normalisers = hidden.new_empty((len(tiles), hidden.shape[0]), dtype=torch.float32)
        ref_normalisers, within = torch.empty_like(normalisers), torch.empty_like(normalisers)
        for number, tile in enumerate(tiles):
            logits = _logits(hidden, weight[tile], temperature, softcap)
            ref_logits = _logits(ref_hidden, ref_weight[tile], temperature, softcap)
            normalisers[number], ref_normalisers[number] = logits.logsumexp(-1), ref_logits.logsumexp(-1)
            within[number] = _kl(ref_logits, logits)
        log_shares, ref_log_shares = normalisers.log_softmax(0), ref_normalisers.log_softmax(0)
        normaliser, ref_normaliser = normalisers.logsumexp(0), ref_normalisers.logsumexp(0)
        ctx.save_for_backward(hidden, weight, ref_hidden, ref_weight, normaliser, ref_normaliser)
        ctx.temperature, ctx.softcap, ctx.tiles = temperature, softcap, tiles
        return (ref_log_shares.exp() * (ref_log_shares - log_shares + within)).sum(0)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, weight, ref_hidden, ref_weight, normaliser, ref_normaliser = ctx.saved_tensors
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        for tile in ctx.tiles:  # d KL / d logit_j = (p_j - ref_j) / temperature
            ours = _logits(hidden, weight[tile], ctx.temperature, ctx.softcap)
            theirs = _logits(ref_hidden, ref_weight[tile], ctx.temperature, ctx.softcap)
            slope = _slope(ours, ctx.temperature, ctx.softcap)
            ours, theirs = ours.sub_(normaliser[:, None]).exp_(), theirs.sub_(ref_normaliser[:, None]).exp_()
            grad_logits = ours.sub_(theirs).mul_((grads[0] / ctx.temperature)[:, None])
            grad_logits = (grad_logits if slope is None else grad_logits.mul_(slope)).to(hidden.dtype)
            grad_hidden += grad_logits @ weight[tile]
            if grad_weight is not None:
                grad_weight[tile] = grad_logits.t() @ hidden
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None, None


def _kl(ref_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(ref_logits) || softmax(logits)) per row."""
    ref_logs = ref_logits.log_softmax(-1)
    return (ref_logs.exp() * (ref_logs - logits.log_softmax(-1))).sum(-1)


def chunked_kl(
    hidden: Float[Tensor, "row width"],
    weight: Float[Tensor, "vocab width"],
    ref_hidden: Float[Tensor, "row ref_width"],
    ref_weight: Float[Tensor, "vocab ref_width"],
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    rows: int = 64,
) -> Float[Tensor, " row"]:
    """KL(reference || policy) over the whole vocabulary, per row, in float32; the softmaxes are at `temperature`.

    Logits, memory and dtypes as in `chunked_logprobs`. Carries gradients to hidden and weight, none to the reference's.
    """
    return _ChunkedKL.apply(hidden, weight, ref_hidden, ref_weight, temperature, softcap, rows)


def full_kl(
    logits: Float[Tensor, "row vocab"], ref_logits: Float[Tensor, "row vocab"], *, temperature: float = 1.0
) -> Float[Tensor, " row"]:
    """The same from logits that already exist, in float32 or better."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return _kl(ref_logits.detach().to(dtype) / temperature, logits.to(dtype) / temperature)


def full_logprobs(
    logits: Float[Tensor, "row vocab"], targets: Int[Tensor, " row"], *, temperature: float = 1.0
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"], Float[Tensor, " row"]]:
    """The same from logits that already exist: the plain path that the chunked one is verified against."""
    logits = logits.float() / temperature
    logs = logits.log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    return logs.gather(-1, targets[:, None]).squeeze(-1), entropy, logits.logsumexp(-1)
