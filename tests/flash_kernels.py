"""Torch's CUDA flash kernels on the CPU: aten's own operators, computed by the book, with the checks of the real ones.

`torch.nn.attention.varlen` calls them, with its own autograd around them; what it would be refused on a GPU it is
refused here (pytorch/aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp: mha_varlen_fwd, mha_varlen_bwd).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.models import attention
from alignkit.models.kernels import choose

HALF = (torch.float16, torch.bfloat16)
WIDEST = 256


def check_inputs(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> None:
    """Raises RuntimeError where the real kernels would, and for lengths that they believe and read beyond."""
    wrong = {
        "only fp16 and bf16": q.dtype not in HALF,
        "query, key and value must have the same dtype": not q.dtype == k.dtype == v.dtype,
        "all on one device": len({x.device for x in (q, k, v, cu_q, cu_k)}) != 1,
        "last dimension must be contiguous": any(x.stride(-1) != 1 for x in (q, k, v)),
        "(token, head, width)": any(x.dim() != 3 for x in (q, k, v)),
        "head width must be a multiple of 8": q.shape[-1] % 8 != 0,
        f"head width at most {WIDEST}": q.shape[-1] > WIDEST,
        "key and value of one shape, as wide as the query": k.shape != v.shape or q.shape[-1] != k.shape[-1],
        "query heads must be a multiple of key heads": q.shape[1] % k.shape[1] != 0,
        "offsets int32 and contiguous": any(x.dtype != torch.int32 or not x.is_contiguous() for x in (cu_q, cu_k)),
        "offsets of as many sequences": cu_q.shape != cu_k.shape or cu_q.dim() != 1 or len(cu_q) < 2,
    }
    for what, broken in wrong.items():
        if broken:
            raise RuntimeError(f"flash attention: {what}")
    lengths = [(cu.diff(), int(cu[0]), int(cu[-1])) for cu in (cu_q, cu_k)]
    for (diff, first, last), x, longest in zip(lengths, (q, k), (max_q, max_k), strict=True):
        if first != 0 or last != len(x) or int(diff.min()) < 1 or int(diff.max()) != longest:
            raise RuntimeError("flash attention: offsets do not cover the tokens, or the longest is another")


def _parts(q: Tensor, k: Tensor, cu_q: Tensor, cu_k: Tensor, causal: bool, left: int, right: int) -> Any:
    """(queries, keys, which key each query sees) of every sequence: the last query is aligned with the last key."""
    if causal:
        right = 0
    for (a, b), (c, d) in zip(cu_q.unfold(0, 2, 1).tolist(), cu_k.unfold(0, 2, 1).tolist(), strict=True):
        distance = torch.arange(b - a)[:, None] + (d - c) - (b - a) - torch.arange(d - c)
        seen = torch.ones_like(distance, dtype=torch.bool)
        if right >= 0:
            seen &= distance >= -right
        if left >= 0:
            seen &= distance <= left
        yield slice(a, b), slice(c, d), seen


def _scores(q: Tensor, k: Tensor, seen: Tensor, scale: float) -> Tensor:
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    return (torch.einsum("qhd,khd->hqk", q.double(), k.double()) * scale).masked_fill(~seen, float("-inf"))


def flash_forward(q, k, v, cu_q, cu_k, max_q, max_k, dropout_p, is_causal, return_debug_mask, *, scale=None,
                  window_size_left=None, window_size_right=None, **unused):  # fmt: skip
    check_inputs(q, k, v, cu_q, cu_k, max_q, max_k)
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], len(q))
    left, right = (-1 if x is None else x for x in (window_size_left, window_size_right))
    for rows, keys, seen in _parts(q, k, cu_q, cu_k, is_causal, left, right):
        scores = _scores(q[rows], k[keys], seen, scale)
        value = v[keys].repeat_interleave(q.shape[1] // v.shape[1], 1).double()
        out[rows] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).to(q.dtype)
        lse[:, rows] = scores.logsumexp(-1).float()
    state = torch.zeros(2, dtype=torch.uint64)
    return out, lse, state, torch.empty(0, dtype=torch.uint64), torch.empty(0, dtype=q.dtype)


def flash_backward(grad, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, dropout_p, is_causal, rng_state, unused, *,
                   scale=None, window_size_left=None, window_size_right=None):  # fmt: skip
    check_inputs(q, k, v, cu_q, cu_k, max_q, max_k)
    if grad.dtype != q.dtype or grad.stride(-1) != 1 or out.dtype != q.dtype or lse.shape != (q.shape[1], len(q)):
        raise RuntimeError("flash attention backward: dtype, stride or shape of a gradient")
    grads = [torch.zeros_like(x, dtype=torch.float64) for x in (q, k, v)]
    left, right = (-1 if x is None else x for x in (window_size_left, window_size_right))
    repeat = q.shape[1] // k.shape[1]
    for rows, keys, seen in _parts(q, k, cu_q, cu_k, is_causal, left, right):
        weights = (_scores(q[rows], k[keys], seen, scale) - lse[:, rows, None].double()).exp()
        value, key = (x[keys].repeat_interleave(repeat, 1).double() for x in (v, k))
        g = grad[rows].double()
        pull = torch.einsum("qhd,khd->hqk", g, value) - (g * out[rows].double()).sum(-1).T[..., None]
        inner = weights * pull * scale
        grads[0][rows] += torch.einsum("hqk,khd->qhd", inner, key)
        for number, each in (
            (1, torch.einsum("hqk,qhd->khd", inner, q[rows].double())),
            (2, torch.einsum("hqk,qhd->khd", weights, g)),
        ):
            grads[number][keys] += each.unflatten(1, (k.shape[1], repeat)).sum(2)
    return tuple(each.to(q.dtype) for each in grads)


@contextmanager
def flash_on_cpu() -> Generator[None]:
    """Within it the packed path takes the CPU for a CUDA device: half precision goes to the varlen kernels."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", flash_forward, "CPU")
    library.impl("_flash_attention_backward", flash_backward, "CPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "on_cpu", lambda x: False)
        patch.setattr(choose, "varlen_serves", lambda device, dtype: dtype in HALF)
        try:
            yield
        finally:
            library._destroy()
