"""What a model says by its own head, all logits at once: the measure of the tiled head, and used where that fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.models.adapted import base_model
from alignkit.models.critic import read_values
from alignkit.models.forward import Want, mixed, on_tokens, padded_index
from alignkit.models.frozen import read_beside
from alignkit.ops.logprobs import full_kl, full_logprobs
from alignkit.types.batch import Batch
from alignkit.types.outputs import Outputs


def own_head(
    model: nn.Module,
    batch: Batch,
    *,
    dtype: torch.dtype,
    temperature: float,
    want: Sequence[Want] = ("logprobs",),
    reference: nn.Module | None = None,
) -> Outputs:
    """As `plain`, from the logits that the model itself computes; they need memory for tokens x vocabulary."""
    causal = base_model(model)
    index, mask = padded_index(batch)

    def read(causal: Any) -> Any:
        with mixed(batch, dtype):
            ids, seen = batch.tokens[index], mask.long()
            return causal(input_ids=ids, attention_mask=seen, use_cache=False, output_hidden_states="values" in want)

    def before(logits: Tensor) -> Tensor:
        return logits[batch.segment[batch.actions], batch.position[batch.actions] - 1]

    output, values, divergence = read(causal), None, None
    if "values" in want:
        place = torch.zeros_like(batch.tokens)
        place[index[mask]] = torch.arange(mask.numel(), device=mask.device)[mask.flatten()]
        values = read_values(causal, output.hidden_states[-1].flatten(0, 1)[place], batch)
    logits = before(output.logits)
    said = full_logprobs(logits, batch.tokens[batch.actions], temperature=temperature)
    if "ref_kl" in want:
        with read_beside(model, reference) as frozen:
            other = before(read(frozen).logits)
        divergence = full_kl(logits, other, temperature=temperature)
    return on_tokens(batch, said, values, divergence)
