"""Packed attention by FlexAttention: scores that are capped, and sinks, over each token's ancestors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from alignkit.models.attention import Layout, Span


def ancestors(spans: Sequence[Span], window: int | None, device: torch.device) -> Any:
    """A BlockMask over the packed tokens: each sees its own span up to itself, and its prompt, within the window."""
    from torch.nn.attention.flex_attention import create_block_mask

    tokens = max(span.begin + span.length for span in spans)
    first, prompt_first, prompt_end, position = (torch.zeros(tokens, dtype=torch.int32) for _ in range(4))
    for span in spans:
        own = slice(span.begin, span.begin + span.length)
        first[own], prompt_first[own], prompt_end[own] = span.begin, span.prompt_begin, span.prompt_begin + span.prompt
        position[own] = span.prompt + torch.arange(span.length)
    first, prompt_first, prompt_end, position = (x.to(device) for x in (first, prompt_first, prompt_end, position))

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (key <= query) & (key >= first[query])
        of_prompt = (key >= prompt_first[query]) & (key < prompt_end[query])
        seen = own | of_prompt
        return seen if window is None else seen & (position[query] - position[key] < window)

    return create_block_mask(sees, None, None, tokens, tokens, device=str(device))


def flex_packed(
    query: Float[Tensor, "head token width"],
    key: Float[Tensor, "kvhead token width"],
    value: Float[Tensor, "kvhead token width"],
    plan: Layout,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Float[Tensor, " head"] | None,
) -> Float[Tensor, "head token width"]:
    """As `packed_attention`, in the dtype that the inputs share."""
    from torch.nn.attention.flex_attention import AuxRequest

    def capped(score: Tensor, *place: Tensor) -> Tensor:
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    out, aux = _flex(query.device.type)(
        *(x[None] for x in (query, key, value)),
        score_mod=capped,
        block_mask=plan.once(ancestors, window, query.device),
        scale=scale,
        enable_gqa=query.shape[0] != key.shape[0],
        return_aux=AuxRequest(lse=True),
    )
    if sinks is None:
        return out[0]
    # a sink's share of the softmax is taken from what the others have
    return (out[0] * (aux.lse[0] - sinks[:, None]).sigmoid()[..., None]).to(out.dtype)


@cache
def _flex(device: str) -> Callable[..., Any]:
    """FlexAttention, compiled where it runs in earnest; by itself it holds all scores at once."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if device == "cpu" else torch.compile(flex_attention, dynamic=True)
