"""A reward model's numbers from states that another engine computes: only those after the last token of a sequence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignkit.algorithms.base import Algorithm
from alignkit.models.adapted import base_model
from alignkit.models.critic import read_values
from alignkit.models.forward import padded_index
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from alignkit.types.seeds import child

States = Callable[[list[list[int]]], list[list[float]]]
"""Token sequences -> the state after the last token of each."""

TOLERANCE = 1e-4
"""Largest allowed |difference| of two engines' numbers in float32, relative to the largest where that is beyond 1."""
LENGTHS = (1, 2, 15, 32, 33, 100, 257)


def reads_last_only(algorithm: Algorithm, config: Any) -> bool:
    """Whether the last token's numbers are all that a score comes from: it comes out whole where others are NaN."""
    heads = len(algorithm.heads(config))
    if not heads or kind_of(algorithm.source).beside_reference or algorithm.judge is None:
        return False
    batch = pack([Item(prompt_ids=(0, 1), completion_ids=(2, 3))], share_prefix=False)
    values = torch.full((batch.num_tokens, heads), math.nan)
    values[batch.last_token()] = 0.0
    said = algorithm.judge(config, Outputs(values=values), batch)
    numbers = [said.value, *said.parts.values(), *(x for x in (said.steps, said.spread, said.members) if x is not None)]
    return said.steps is None and all(bool(torch.isfinite(one).all()) for one in numbers)


def last_values(model: Any, batch: Batch, states: States) -> Tensor:
    """The head's numbers at each sequence's last token; NaN at all other tokens."""
    index, mask = padded_index(batch)
    sequences = [batch.tokens[row[real]].tolist() for row, real in zip(index, mask, strict=True)]
    causal = base_model(model)
    device = next(causal.parameters()).device
    said = read_values(causal, torch.tensor(states(sequences), device=device)).cpu()
    return said.new_full((batch.num_tokens, said.shape[1]), math.nan).index_put((batch.last_token().cpu(),), said)


def trial_batch(vocabulary: int, context: int) -> Batch:
    """Sequences of random tokens, of several lengths up to 257, all but the first behind the same 40 tokens."""
    draw = np.random.Generator(np.random.Philox(key=child(0, "last states")))
    prompt = draw.integers(vocabulary, size=min(40, context // 2)).tolist()
    room = context - len(prompt)
    lengths = sorted({min(length, room) for length in LENGTHS})
    items = [Item(prompt_ids=prompt, completion_ids=draw.integers(vocabulary, size=n).tolist()) for n in lengths]
    return pack([Item(prompt_ids=prompt[:1], completion_ids=prompt[:1]), *items], share_prefix=False)


def differences(own: Tensor, other: Tensor) -> float:
    """The largest, relative to the largest number where that is beyond 1."""
    return float((own - other).abs().max() / own.abs().max().clamp(min=1.0))
