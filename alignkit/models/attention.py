"""Exact attention over a packed batch in which a group's prompt is stored and computed once.

A token attends to itself, to the tokens before it in its own sequence, and to its block's prompt. That is two plain
parts with a shared softmax: every span (a prompt, or one sequence's own tokens) attends causally to itself, and a
block's continuations attend fully to its prompt, or to as much of the first as they fork from. A prompt with a single
continuation is one span. Each part is a fused
kernel that returns its log-normaliser; the parts are merged by these, and given the merged output and normaliser each
kernel's own backward is exact.

That is for the CPU. Sliding windows, soft caps and sinks, and CUDA's varlen kernels, read each span's keys gathered:
`alignkit/models/kernels`. Registered with transformers' AttentionInterface under NAME by `install`, so stock models run
unchanged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from alignkit.models.device_type import device_type
from alignkit.types.batch import Block

Made = TypeVar("Made")
NAME = "alignkit_packed"
PADDING_WASTE = 1.25  # spans share one kernel call while padding them costs at most this factor in tokens
ALONE = 256  # tokens; a longer span is worth a call of its own


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring tokens that attend causally to each other, and all of them to a prompt before them, if any."""

    begin: int
    length: int
    prompt: int = 0
    prompt_begin: int = 0


@dataclass(frozen=True)
class Layout:
    """Where the parts lie, computed once per micro-batch and used by every layer.

    buckets: packed indices (span, padded length) of spans of similar length; padding points one past the last token.
    crosses: the same, for blocks with prompts of one length and continuations of similar length, of all that continues
    each prompt, and of the prompts. longest: tokens of the longest sequence, its prompt included.
    """

    spans: tuple[Span, ...]
    buckets: tuple[Tensor, ...]
    crosses: tuple[tuple[Tensor, Tensor], ...]
    longest: int
    _made: dict[Any, Any] = field(default_factory=dict)

    def once(self, make: Callable[..., Made], *of: Any) -> Made:
        """make(spans, *of), computed when the first layer asks for it."""
        if (make, of) not in self._made:
            self._made[make, of] = make(self.spans, *of)
        return self._made[make, of]


def layout(blocks: tuple[Block, ...]) -> Layout:
    """The Layout of a packed batch's blocks."""
    spans: list[Span] = []
    continued: dict[int, list[Span]] = defaultdict(list)
    for block in blocks:
        # where others fork from the first continuation it is one span with its prompt, whose beginnings they read
        alone = len(block.lengths) == 1 or bool(block.forks)
        begin = block.start + block.prompt + alone * block.lengths[0]
        spans.append(Span(block.start, begin - block.start))
        branches = list(zip(block.ahead, block.lengths, strict=True))[alone:]
        for ahead, together in groupby(branches, key=lambda branch: branch[0]):
            body = begin
            for _, length in together:
                spans.append(Span(begin, length, ahead, block.start))
                begin += length
            continued[ahead].append(Span(body, begin - body, ahead, block.start))
    padding = blocks[-1].end
    crosses = [
        (_index(bucket, padding), _index([Span(span.prompt_begin, prompt) for span in bucket], padding))
        for prompt, bodies in continued.items()
        for bucket in alike(bodies)
    ]
    longest = max(span.prompt + span.length for span in spans)
    return Layout(tuple(spans), tuple(_index(bucket, padding) for bucket in alike(spans)), tuple(crosses), longest)


def alike(spans: list[Span]) -> list[list[Span]]:
    """Spans for one kernel call each: long ones alone, of short ones as many as PADDING_WASTE allows."""
    groups: list[list[Span]] = []
    total = 0
    for span in sorted(spans, key=lambda span: -span.length):
        longest = groups[-1][0].length if groups else 0
        fits = (len(groups[-1]) + 1) * longest <= PADDING_WASTE * (total + span.length) if groups else False
        if fits and longest <= ALONE:
            groups[-1].append(span)
            total += span.length
        else:
            groups.append([span])
            total = span.length
    return groups


def _index(spans: list[Span], padding: int) -> Tensor:
    index = torch.full((len(spans), spans[0].length), padding)
    for row, span in enumerate(spans):
        index[row, : span.length] = torch.arange(span.begin, span.begin + span.length)
    return index


def _read(x: Tensor, index: Tensor) -> Tensor:
    """(row, head, length, ...) of (head, token, ...)."""
    return x[:, index].transpose(0, 1)


def _write(x: Tensor, index: Tensor, rows: Tensor) -> None:
    x[:, index] = rows.transpose(0, 1)


_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _PackedAttention(torch.autograd.Function):
    """query, key, value: (head, token, width) with equal head counts."""

    @staticmethod
    def forward(ctx, query, key, value, plan: Layout, scale: float):
        query, key, value = (torch.nn.functional.pad(x, (0, 0, 0, 1)) for x in (query, key, value))
        output = torch.empty_like(query)
        normaliser = torch.empty(output.shape[:2], dtype=torch.float32)
        for index in plan.buckets:
            parts = [_read(x, index) for x in (query, key, value)]
            out, log = _forward(*parts, 0.0, True, attn_mask=None, scale=scale)
            _write(output, index, out)
            _write(normaliser, index, log)
        for index, prompt in plan.crosses:
            parts = (_read(query, index), _read(key, prompt), _read(value, prompt))
            out, log = _forward(*parts, 0.0, False, attn_mask=None, scale=scale)
            own = _read(normaliser, index)
            merged = torch.logaddexp(own, log)
            mixed = _read(output, index) * (own - merged).exp()[..., None] + out * (log - merged).exp()[..., None]
            _write(output, index, mixed.to(output.dtype))
            _write(normaliser, index, merged)
        output[:, -1], normaliser[:, -1] = 0.0, 0.0  # the padding's row
        ctx.save_for_backward(query, key, value, output, normaliser)
        ctx.plan, ctx.scale = plan, scale
        return output[:, :-1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, output, normaliser = ctx.saved_tensors
        grad = torch.nn.functional.pad(grads[0], (0, 0, 0, 1))
        totals = [torch.zeros_like(query) for _ in range(3)]
        for index in ctx.plan.buckets:
            parts = [_read(x, index) for x in (grad, query, key, value, output, normaliser)]
            for total, part in zip(totals, _backward(*parts, 0.0, True, scale=ctx.scale), strict=True):
                _write(total, index, part)
        for index, prompt in ctx.plan.crosses:
            places = (index, index, prompt, prompt, index, index)
            of = zip((grad, query, key, value, output, normaliser), places, strict=True)
            found = _backward(*(_read(x, where) for x, where in of), 0.0, False, scale=ctx.scale)
            for total, part, where in zip(totals, found, (index, prompt, prompt), strict=True):
                _write(total, where, _read(total, where) + part)
        return *(total[:, :-1] for total in totals), None, None


def packed_attention(
    query: Float[Tensor, "head token width"],
    key: Float[Tensor, "kvhead token width"],
    value: Float[Tensor, "kvhead token value_width"],
    plan: Layout,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " head"] | None = None,
) -> Float[Tensor, "head token value_width"]:
    """softmax(query key^T scale) value over each token's ancestors, in value's dtype; key heads serve several queries'.

    window: how many tokens are seen at most, the token itself included. softcap: c of c tanh(score / c). sinks: of each
    head, the logit of a token that is attended to and has no value (arXiv 2309.17453).
    """
    window = None if window is None or window >= plan.longest else window
    extras = window is not None or softcap is not None or sinks is not None
    if extras or query.shape[-1] != value.shape[-1] or not on_cpu(query):
        from alignkit.models.kernels.choose import by_kernel

        return by_kernel(query, key, value, plan, scale=scale, window=window, softcap=softcap, sinks=sinks)
    repeat = query.shape[0] // key.shape[0]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, 0), value.repeat_interleave(repeat, 0)
    # float32: without AMX the CPU kernel is up to 1.5x slower in bfloat16, and rotary embeddings left it in float32
    return _PackedAttention.apply(query.float(), key.float(), value.float(), plan, scale).to(value.dtype)


def on_cpu(x: Tensor) -> bool:
    return device_type(x) == "cpu"


def _interface(module, query, key, value, attention_mask, *, alignkit_layout: Layout | None = None, **kwargs):
    """transformers' attention function: (1, head, token, width) in, (1, token, head, width) out."""
    if alignkit_layout is None:
        raise ValueError("the model's attention layers do not hand on what they are to be told")
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    extras = {"window": kwargs.get("sliding_window"), "softcap": kwargs.get("softcap"), "sinks": kwargs.get("s_aux")}
    out = packed_attention(query[0], key[0], value[0], alignkit_layout, scale=scale, **extras)
    return out.transpose(0, 1)[None], None


def install() -> None:
    """Makes NAME known to transformers. Called before use; calling it again changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _interface)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


@contextmanager
def named(config: Any, name: str) -> Generator[None]:
    """Within it the layers of a model with this config use the attention function `name`; they read it at each call."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
