"""Families that a GGUF file can hold: what llama.cpp calls their settings, and how it wants their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignkit.errors import ExportError

if TYPE_CHECKING:
    from gguf import GGUFWriter

INSTEAD = "use --to merged, which transformers and vLLM read"
FUSED = ".experts.gate_up_proj"


@dataclass(frozen=True, kw_only=True)
class Family:
    """arch: llama.cpp's name. permutes: the two halves of each query and key head are interleaved, as llama.cpp rotates
    them. centred: norms are stored by transformers without the 1 that is added to them. pattern: each how many-th layer
    sees everything where the others have a window; None: a window cannot be said. factors: rotary frequencies may be
    divided one by one. caps: scores and logits are capped. experts: layers are mixtures of them. plain_every: each how
    many-th layer is not rotated. whole_norms: queries and keys are normalised over all heads, of which there must be as
    many. assembled: transformers reads no such files, `read.py` puts the model together."""

    arch: str
    permutes: bool = False
    centred: bool = False
    pattern: int | None = None
    factors: bool = False
    caps: bool = False
    experts: bool = False
    plain_every: int | None = None
    whole_norms: bool = False
    assembled: bool = False


FAMILIES = {
    "llama": Family(arch="llama", permutes=True, factors=True),
    "mistral": Family(arch="llama", permutes=True, factors=True),
    "qwen2": Family(arch="qwen2"),
    "qwen3": Family(arch="qwen3"),
    "phi3": Family(arch="phi3"),
    "gemma2": Family(arch="gemma2", centred=True, pattern=2, caps=True),
    "gemma3_text": Family(arch="gemma3", centred=True, pattern=6),
    "qwen3_moe": Family(arch="qwen3moe", experts=True),
    "olmo2": Family(arch="olmo2", assembled=True),
    "smollm3": Family(arch="smollm3", permutes=True, plain_every=4, assembled=True),
    "mixtral": Family(arch="llama", permutes=True, experts=True, assembled=True),
    "olmoe": Family(arch="olmoe", experts=True, whole_norms=True, assembled=True),
}


def family_of(model: Any) -> Family:
    """The family of a model. Raises ExportError where no GGUF reader that is at hand reads it."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise ExportError(f"gguf: no reader that could prove it reads {kind} models; {INSTEAD}")
    return FAMILIES[kind]


def head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def write_settings(writer: GGUFWriter, model: Any) -> None:
    """Everything of the config that llama.cpp computes with."""
    config, family = model.config, family_of(model)
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    if family.whole_norms and heads != shared:
        raise ExportError(
            f"gguf: llama.cpp wants as many keys as queries, {config.model_type} has {shared} of {heads}; {INSTEAD}"
        )
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if family.pattern:
        writer.add_sliding_window(config.sliding_window)
    if family.experts:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        if hasattr(config, "moe_intermediate_size"):  # else the feed-forward length is that of each
            writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if family.caps:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    _write_rotation(writer, config)


def _write_rotation(writer: GGUFWriter, config: Any) -> None:
    """How positions turn queries and keys; the factors of single frequencies are a tensor (`stored`)."""
    from gguf import RopeScalingType

    everywhere = rotation(config)
    width = int(head_size(config) * everywhere.get("partial_rotary_factor", 1.0))
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(everywhere["rope_theta"])
    if everywhere["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(everywhere["factor"])
    if "sliding_attention" in config.rope_parameters:
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])


def rotation(config: Any) -> dict[str, Any]:
    """The rotary settings of layers that see everything. Raises ExportError where GGUF has no words for them."""
    said = config.rope_parameters
    everywhere = said.get("full_attention", said)
    known = ("default", "linear", "llama3") if FAMILIES[config.model_type].factors else ("default", "linear")
    if everywhere["rope_type"] not in known:
        kind = everywhere["rope_type"]
        raise ExportError(f"gguf: rotary scaling of type {kind} is not written for {config.model_type}; {INSTEAD}")
    return everywhere


def stored(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(llama.cpp's name, weight in float32 as it wants it) of every weight, one after the other.

    A tied head is left out, as llama.cpp wants it. Raises ExportError for a weight that has no name there.
    """
    family = family_of(model)
    for own, numbers, heads in places(model):
        weight = numbers.float()
        if heads is not None:
            weight = interleave(weight, heads)
        if family.centred and "norm.weight" in own:
            weight = weight + 1
        yield own, weight.contiguous()
    if rotation(model.config)["rope_type"] == "llama3":
        yield "rope_freqs.weight", frequency_factors(model)


def places(model: Any) -> Iterator[tuple[str, Tensor, int | None]]:
    """(llama.cpp's name, the numbers of the model that it holds, heads whose halves are interleaved in it) of each
    weight; what transformers fuses (two matrices of the experts) has two names."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    config, family = model.config, family_of(model)
    arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == family.arch)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        fused = name.endswith(FUSED)
        halves = parameter.detach().chunk(2, dim=1) if fused else (parameter.detach(),)
        called = [name.replace("gate_up", half) for half in ("gate", "up")] if fused else [name]
        for each, numbers in zip(called, halves, strict=True):
            own = names.get_name(each, try_suffixes=(".weight", ".bias"))
            if own is None:
                raise ExportError(f"gguf: llama.cpp has no place for {name}; {INSTEAD}")
            turned = family.permutes and (".attn_q." in own or ".attn_k." in own)
            heads = config.num_attention_heads if ".attn_q." in own else config.num_key_value_heads
            yield own if own.endswith((".weight", ".bias")) else f"{own}.weight", numbers, heads if turned else None


def interleave(weight: Tensor, heads: int) -> Tensor:
    """Rows (0, 1, ..., h/2, h/2 + 1, ...) of each head as (0, h/2, 1, h/2 + 1, ...): pairs that turn together meet."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def separate(weight: Tensor, heads: int) -> Tensor:
    """Undoes `interleave`."""
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def frequency_factors(model: Any) -> Tensor:
    """What each frequency is divided by, half a head's width of them."""
    frequencies = model.get_decoder().rotary_emb.inv_freq.double()
    width = 2 * len(frequencies)
    plain = rotation(model.config)["rope_theta"] ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return (plain / frequencies).float()
