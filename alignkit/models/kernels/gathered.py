"""Packed attention with sliding windows, soft caps or sinks by torch's ordinary operations, on any device.

Every span reads its keys gathered: the end of its prompt that a window lets it see, then its own tokens. Spans of
similar length share a call, as in `alignkit.models.attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from alignkit.models.attention import Layout, Span, alike


@dataclass(frozen=True)
class Gathered:
    """queries: packed indices (span, length) of a bucket's spans, keys: (span, prompt + length) of what they may see;
    padding points one past the last token. seen: (span, length, prompt + length), which of these they do see."""

    queries: Tensor
    keys: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Buckets:
    """places: for every packed token, where it stands among the queries of all buckets one after the other."""

    gathered: tuple[Gathered, ...]
    places: Tensor


def buckets(spans: Sequence[Span], window: int | None, device: torch.device) -> Buckets:
    """What `gathered_attention` reads, for one window (None: everything before a token)."""
    padding = max(span.begin + span.length for span in spans)
    gathered = [_gathered(bucket, padding, window) for bucket in alike(list(spans))]
    places = torch.cat([each.queries.flatten() for each in gathered]).argsort()[:padding]  # padding sorts last
    moved = [Gathered(each.queries.to(device), each.keys.to(device), each.seen.to(device)) for each in gathered]
    return Buckets(tuple(moved), places.to(device))


def reach(span: Span, window: int | None) -> int:
    """How many tokens of its prompt the first token of a span sees."""
    return span.prompt if window is None else min(span.prompt, window - 1)


def _gathered(spans: list[Span], padding: int, window: int | None) -> Gathered:
    longest, before = spans[0].length, max(reach(span, window) for span in spans)
    queries = torch.full((len(spans), longest), padding)
    keys = torch.full((len(spans), before + longest), padding)
    real = torch.zeros(keys.shape, dtype=torch.bool)
    for row, span in enumerate(spans):
        own = torch.arange(span.begin, span.begin + span.length)
        queries[row, : span.length] = own
        keys[row, before : before + span.length] = own
        prompt_end, first = span.prompt_begin + span.prompt, before - reach(span, window)
        keys[row, first:before] = torch.arange(prompt_end - (before - first), prompt_end)
        real[row, first:] = True  # the padding behind a span lies in no real token's past
    distance = torch.arange(longest)[:, None] - (torch.arange(before + longest) - before)
    near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return Gathered(queries, keys, near & real[:, None, :])


def gathered_attention(
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
    made = plan.once(buckets, window, query.device)
    query, key, value = (pad(x, (0, 0, 0, 1)) for x in (query, key, value))
    repeat, outputs = query.shape[0] // key.shape[0], []
    for each in made.gathered:
        q, k, v = _read(query, each.queries), _read(key, each.keys), _read(value, each.keys)
        k, v = (x.repeat_interleave(repeat, 1) if repeat > 1 else x for x in (k, v))
        seen = each.seen[:, None]
        if softcap is None and sinks is None:
            out = scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
        else:
            out = _attend(q, k, v, seen, scale, softcap, sinks)
        outputs.append(out.transpose(0, 1).flatten(1, 2))
    return torch.cat(outputs, 1).index_select(1, made.places)


def _read(x: Tensor, index: Tensor) -> Tensor:
    """(row, head, length, width) of (head, token, width)."""
    return x.index_select(1, index.flatten()).unflatten(1, index.shape).transpose(0, 1)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    scores = q @ k.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is None:
        return scores.softmax(-1) @ v
    sink = sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sink], -1).softmax(-1)[..., :-1] @ v
