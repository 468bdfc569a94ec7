"""Exact attention over a packed batch in which a group's prompt is stored and computed once.

A token attends to itself, to the tokens before it in its own sequence, and to its block's prompt. That is two plain
parts with a shared softmax: every span (a prompt, or one sequence's own tokens) attends causally to itself, and a
block's continuations attend fully to its prompt. Each part is a fused kernel that returns its log-normaliser; the
parts are merged by these, and given the merged output and normaliser each kernel's own backward is exact.

On CPU the kernel is torch's flash attention; on CUDA it is flash-attn's varlen kernel over gathered keys. Registered
with transformers' AttentionInterface under NAME by `install`, so stock models run unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from alignkit.types.batch import Block

NAME = "alignkit_packed"
PADDING_WASTE = 1.25  # spans share one kernel call while padding them costs at most this factor in tokens


@dataclass(frozen=True)
class Layout:
    """Where the parts lie, computed once per micro-batch and used by every layer.

    buckets: for spans of similar length, packed indices (span, padded length); padding points one past the last token.
    crosses: (prompt start, prompt end, block end) of blocks whose prompt is continued.
    """

    buckets: tuple[Tensor, ...]
    crosses: tuple[tuple[int, int, int], ...]
    num_tokens: int


def layout(blocks: tuple[Block, ...]) -> Layout:
    """The Layout of a packed batch's blocks."""
    spans = [(block.start, block.prompt) for block in blocks]
    for block in blocks:
        begin = block.start + block.prompt
        for length in block.lengths:
            spans.append((begin, length))
            begin += length
    num_tokens = blocks[-1].end
    crosses = tuple((block.start, block.start + block.prompt, block.end) for block in blocks)
    return Layout(tuple(_bucket(bucket, num_tokens) for bucket in _buckets(spans)), crosses, num_tokens)


def _buckets(spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Spans grouped by similar length: a group grows while its padded size stays within PADDING_WASTE of its own."""
    groups: list[list[tuple[int, int]]] = []
    total = 0
    for span in sorted(spans, key=lambda span: -span[1]):
        if groups and (len(groups[-1]) + 1) * groups[-1][0][1] <= PADDING_WASTE * (total + span[1]):
            groups[-1].append(span)
            total += span[1]
        else:
            groups.append([span])
            total = span[1]
    return groups


def _bucket(spans: list[tuple[int, int]], padding: int) -> Tensor:
    index = torch.full((len(spans), spans[0][1]), padding)
    for row, (begin, length) in enumerate(spans):
        index[row, :length] = torch.arange(begin, begin + length)
    return index


_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _PackedAttention(torch.autograd.Function):
    """query, key, value: (head, token, width) with equal head counts."""

    @staticmethod
    def forward(ctx, query, key, value, plan: Layout, scale: float):
        padded = [torch.nn.functional.pad(x, (0, 0, 0, 1)) for x in (query, key, value)]
        output = torch.empty_like(padded[0])
        normaliser = torch.empty(output.shape[:2], dtype=torch.float32)
        for index in plan.buckets:
            parts = [x[:, index].transpose(0, 1) for x in padded]  # (span, head, length, width)
            out, log = _forward(*parts, 0.0, True, attn_mask=None, scale=scale)
            output[:, index], normaliser[:, index] = out.transpose(0, 1), log.transpose(0, 1)
        output, normaliser = output[:, :-1], normaliser[:, :-1]
        for start, middle, end in plan.crosses:
            out, log = _forward(*_cross(query, key, value, start, middle, end), 0.0, False, attn_mask=None, scale=scale)
            own, log = normaliser[:, middle:end], log[0]
            merged = torch.logaddexp(own, log)
            mixed = output[:, middle:end] * (own - merged).exp()[..., None] + out[0] * (log - merged).exp()[..., None]
            output[:, middle:end], normaliser[:, middle:end] = mixed.to(output.dtype), merged
        ctx.save_for_backward(query, key, value, output, normaliser)
        ctx.plan, ctx.scale = plan, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        query, key, value, output, normaliser = ctx.saved_tensors
        sources = (grad, query, key, value, output)
        padded = [torch.nn.functional.pad(x, (0, 0, 0, 1)) for x in sources]
        padded_normaliser = torch.nn.functional.pad(normaliser, (0, 1))
        totals = [torch.zeros_like(padded[0]) for _ in range(3)]
        for index in ctx.plan.buckets:
            parts = [x[:, index].transpose(0, 1) for x in padded]
            log = padded_normaliser[:, index].transpose(0, 1)
            for total, part in zip(totals, _backward(*parts, log, 0.0, True, scale=ctx.scale), strict=True):
                total[:, index] = part.transpose(0, 1)
        for start, middle, end in ctx.plan.crosses:
            continued = slice(middle, end)
            parts = (grad[None, :, continued], *_cross(query, key, value, start, middle, end))
            state = (output[None, :, continued], normaliser[None, :, continued])
            grad_query, grad_key, grad_value = _backward(*parts, *state, 0.0, False, scale=ctx.scale)
            totals[0][:, continued] += grad_query[0]
            totals[1][:, start:middle] += grad_key[0]
            totals[2][:, start:middle] += grad_value[0]
        return *(total[:, :-1] for total in totals), None, None


def _cross(query, key, value, start: int, middle: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
    """The continuations' queries and the prompt's keys and values, with a batch axis of one."""
    return query[None, :, middle:end], key[None, :, start:middle], value[None, :, start:middle]


def packed_attention(
    query: Float[Tensor, "head token width"],
    key: Float[Tensor, "kvhead token width"],
    value: Float[Tensor, "kvhead token width"],
    plan: Layout,
    *,
    scale: float,
) -> Float[Tensor, "head token width"]:
    """softmax(query key^T scale) value over each token's ancestors. Key heads are repeated to the query heads."""
    if query.device.type == "cuda":
        return _varlen_attention(query, key, value, plan, scale)
    repeat = query.shape[0] // key.shape[0]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, 0), value.repeat_interleave(repeat, 0)
    # float32: without AMX the CPU kernel is up to 1.5x slower in bfloat16, and rotary embeddings left it in float32
    return _PackedAttention.apply(query.float(), key.float(), value.float(), plan, scale).to(value.dtype)


def _varlen_attention(query: Tensor, key: Tensor, value: Tensor, plan: Layout, scale: float) -> Tensor:
    """The same through flash-attn: every span is a sequence whose keys are its prompt's, if any, and its own."""
    from flash_attn import flash_attn_varlen_func

    spans = sorted(
        ((int(row[0]), int((row < plan.num_tokens).sum())) for bucket in plan.buckets for row in bucket),
    )
    keys, query_lengths, key_lengths = [], [], []
    for begin, length in spans:
        prompt = next(((s, m) for s, m, e in plan.crosses if m <= begin < e), None)
        context = [torch.arange(*prompt)] if prompt else []
        keys += [*context, torch.arange(begin, begin + length)]
        query_lengths.append(length)
        key_lengths.append(length + (prompt[1] - prompt[0] if prompt else 0))
    index = torch.cat(keys).to(key.device)
    offsets = [torch.tensor([0, *n], device=key.device).cumsum(0).int() for n in (query_lengths, key_lengths)]
    out = flash_attn_varlen_func(
        *(query.transpose(0, 1), key[:, index].transpose(0, 1), value[:, index].transpose(0, 1)),
        *(offsets[0], offsets[1], max(query_lengths), max(key_lengths)),
        softmax_scale=scale,
        causal=True,  # aligned to the last key, so the prompt is visible in full
    )
    return out.transpose(0, 1)


def _interface(module, query, key, value, attention_mask, *, scaling, alignkit_layout: Layout, **kwargs):
    """transformers' attention function: (1, head, token, width) in, (1, token, head, width) out."""
    if kwargs.get("sliding_window") is not None or kwargs.get("softcap") is not None:
        raise ValueError("packed attention has no sliding window and no soft cap; set train.fast_paths: false")
    out = packed_attention(query[0], key[0], value[0], alignkit_layout, scale=scaling)
    return out.transpose(0, 1)[None], None


def install() -> None:
    """Makes NAME known to transformers. Called before use; calling it again changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _interface)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
