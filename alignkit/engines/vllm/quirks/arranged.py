"""Layers whose numbers vLLM keeps in another order than the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TURNED = (".c_attn", ".c_proj", ".c_fc")  # layers of GPT-2


def is_turned(model: Any, name: str, kind: str) -> bool:
    """Whether a weight is kept as (output, input), while the checkpoint has it as (input, output)."""
    return type(model).__name__ == "GPT2LMHeadModel" and name.endswith(TURNED) and kind == "weight"


def arranged(model: Any, name: str, kind: str) -> Callable[[str, Tensor], Tensor] | None:
    """What makes of a checkpoint's (name, tensor) the one that vLLM keeps in its layer; None: they are the same.

    BLOOM's queries, keys and values lie head by head in the checkpoint, Llama 4's queries and keys pair by pair of a
    rotation. Both are put in order by vLLM's own code.
    """
    if is_turned(model, name, kind):
        return lambda source, tensor: tensor.T.contiguous()
    architecture, last = type(model).__name__, name.rpartition(".")[2]
    if (architecture, last) == ("BloomForCausalLM", "query_key_value"):
        return lambda source, tensor: next(iter(model.transformer._repack_qkv([(source, tensor)])))[1]
    if (architecture, last) == ("Llama4ForCausalLM", "qkv_proj"):
        return lambda source, tensor: model.permute_qk_weight_for_rotary(source, tensor)[1]
    return None
