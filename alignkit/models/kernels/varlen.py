"""Packed attention on CUDA by fused kernels: torch's varlen flash attention, FlexAttention where a cap or a sink asks.

Every span is a sequence whose keys are its prompt's, if any, and its own; "causal" aligned to the last key then lets it
see its prompt in full. flash-attn, where it is installed, serves soft caps, which torch's own kernel has not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from alignkit.models.attention import Layout, Span
from alignkit.models.kernels.gathered import reach

MULTIPLE = 8  # the kernels take widths that are a multiple of it


@dataclass(frozen=True)
class Sequences:
    """keys: packed indices of the keys of all spans, one after the other. query_ends, key_ends: int32, 0 and where each
    of them ends."""

    keys: Tensor
    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int


def sequences(spans: Sequence[Span], window: int | None, device: torch.device) -> Sequences:
    """What the varlen kernels read; prompts are cut to what a window lets a span see."""
    ordered = sorted(spans, key=lambda span: span.begin)
    before = [reach(span, window) for span in ordered]
    ends = [(span.prompt_begin + span.prompt - seen, span) for span, seen in zip(ordered, before, strict=True)]
    keys = [
        torch.arange(*part)
        for first, span in ends
        for part in ((first, span.prompt_begin + span.prompt), (span.begin, span.begin + span.length))
    ]
    queries = torch.tensor([0, *(span.length for span in ordered)])
    seen = torch.tensor([0, *(each + span.length for each, span in zip(before, ordered, strict=True))])
    return Sequences(
        torch.cat(keys).to(device),
        queries.cumsum(0).int().to(device),
        seen.cumsum(0).int().to(device),
        int(queries.max()),
        int(seen.max()),
    )


def varlen_attention(
    query: Float[Tensor, "head token width"],
    key: Float[Tensor, "kvhead token width"],
    value: Float[Tensor, "kvhead token width"],
    plan: Layout,
    dtype: torch.dtype,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Float[Tensor, " head"] | None,
) -> Float[Tensor, "head token width"]:
    """As `packed_attention`, computed in `dtype`, float16 or bfloat16."""
    width = query.shape[-1]
    query, key, value = (pad(x, (0, -width % MULTIPLE)) for x in (query, key, value))
    if sinks is not None or (softcap is not None and not importlib.util.find_spec("flash_attn")):
        from alignkit.models.kernels.flex import flex_packed

        parts = (x.to(dtype) for x in (query, key, value))
        return flex_packed(*parts, plan, scale, window, softcap, sinks)[..., :width]
    made = plan.once(sequences, window, query.device)
    # gathered before it is rounded, so that the gradients of a prompt's many readers are added up unrounded
    key, value = (x.transpose(0, 1).float().index_select(0, made.keys).to(dtype) for x in (key, value))
    out = _kernel(query.transpose(0, 1).to(dtype), key, value, made, scale, window, softcap)
    return out.transpose(0, 1)[..., :width]


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, made: Sequences, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """(token, head, width) in and out."""
    where = (made.query_ends, made.key_ends, made.longest_query, made.longest_key)
    left = -1 if window is None else window - 1
    if softcap is not None:
        from flash_attn import flash_attn_varlen_func

        options: dict[str, Any] = {"softcap": softcap, "deterministic": torch.are_deterministic_algorithms_enabled()}
        return flash_attn_varlen_func(
            query, key, value, *where, softmax_scale=scale, causal=True, window_size=(left, 0), **options
        )
    from torch.nn.attention.varlen import varlen_attn

    out: Any = varlen_attn(query, key, value, *where, scale=scale, window_size=(left, 0), enable_gqa=True)
    return out
