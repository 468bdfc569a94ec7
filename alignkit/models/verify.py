"""The fast paths against the plain ones, on a few cut sequences of a batch that is about to be trained on."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch

from alignkit.errors import first_line
from alignkit.models import forward as paths
from alignkit.models.adapted import base_model
from alignkit.models.forward import Forward
from alignkit.models.own_head import own_head
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item

TOLERANCE = 1e-4
"""Largest allowed mean |difference| of log-probs from the plain forward, both in float32."""
ROUNDING, FLOOR = 2.0, 1e-3
"""In bfloat16 the packed path may be this many times as far from plain float32 as the plain path in bfloat16 is."""
LONGEST, HEAD_TOKENS = 512, 64
"""Tokens of a sequence that are compared, and of those on which the head is checked."""


def verify(forward: Forward, batch: Batch, temperature: float) -> None:
    """Turns off what cannot be used for the rest of the run, and reports each once, in a sentence.

    The head, read tile by tile, against the model's own logits, once; the packed path against the plain one by the same
    head, in float32 and in the run's dtype. Raises what says that memory ran out; anything else means that a model
    does not fit a path.
    """
    if not forward.families and "logprobs" in forward.want:
        problem = _found(_head_gap, forward, few(batch, HEAD_TOKENS).to(forward.device), temperature)
        if problem:
            forward.tiled = forward.fast = False
            forward.report(f"the head is not read tile by tile in this run, all logits are held at once: {problem}")
    if forward.fast:
        problem = _found(_packed_gap, forward, few(batch, longest(forward)).to(forward.device), temperature)
        if problem:
            forward.fast = False
            forward.report(f"the packed forward is off for this run, the plain one is used: {problem}")


def _found(gap: Any, forward: Forward, batch: Batch, temperature: float) -> str | None:
    """What is wrong with a path, None where nothing is."""
    try:
        with torch.no_grad():
            return gap(forward, batch, temperature)
    except Exception as error:
        if _out_of_memory(error):
            raise
        return first_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {first_line(error)}"


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def _head_gap(forward: Forward, batch: Batch, temperature: float) -> str | None:
    how = {"dtype": torch.float32, "temperature": temperature}
    own, tiled = (forward.by(path, batch, **how).logprobs for path in (own_head, paths.plain))
    gap = float((own - tiled)[batch.action_mask].abs().mean())
    return None if gap <= TOLERANCE else f"its log-probs differ by {gap:.2e} in the mean from the model's own"


def _packed_gap(forward: Forward, batch: Batch, temperature: float) -> str | None:
    compared = forward.want[0]

    def said(path: Any, dtype: torch.dtype) -> torch.Tensor:
        return getattr(forward.by(path, batch, dtype=dtype, temperature=temperature), compared)[batch.action_mask]

    exact = said(paths.plain, torch.float32)
    allowed = {torch.float32: TOLERANCE}
    if forward.dtype != torch.float32:
        allowed[forward.dtype] = ROUNDING * float((said(paths.plain, forward.dtype) - exact).abs().mean()) + FLOOR
    for dtype, most in allowed.items():  # in an order that every rank shares
        gap = float((said(paths.packed, dtype) - exact).abs().mean())
        if not gap <= most:
            return f"in {dtype} its {compared} differ by {gap:.2e} in the mean from the plain forward"
    return None


def longest(forward: Forward) -> int:
    """Tokens of a sequence that are compared: more than a sliding window has, where the model's layers have one."""
    window = getattr(base_model(forward.model).config.get_text_config(), "sliding_window", None)
    return LONGEST if window is None else max(LONGEST, window + LONGEST // 4)


def few(batch: Batch, longest: int) -> Batch:
    """Up to 3 sequences of each of 2 blocks: enough for shared prompts, several blocks and padding.

    The blocks with the most sequences, because a prompt that is not shared takes another way through the attention.
    A sequence is cut to `longest` tokens, half of them the end of its prompt; all of its completion is compared.
    """
    firsts = [0, *accumulate(len(block.lengths) for block in batch.blocks)]
    most = sorted(range(len(batch.blocks)), key=lambda number: -len(batch.blocks[number].lengths))[:2]
    items = []
    for number in sorted(most):
        block = batch.blocks[number]
        prompt = batch.tokens[block.start : block.start + block.prompt][-(longest // 2) :].tolist()
        for member in range(min(3, len(block.lengths))):
            own = batch.tokens[batch.segment == firsts[number] + member]
            items.append(Item(prompt_ids=prompt, completion_ids=own[: longest // 2].tolist(), group=number))
    return pack(items, share_prefix=True)
