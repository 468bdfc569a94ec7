"""Architectures of language models, each as a random model of two layers, for the table of docs/models.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

VOCABULARY = 64
SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
DEEPSEEK = LATENT | {
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MIXED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}


@dataclass(frozen=True)
class Family:
    """name: as people call it. kind: transformers' model type. extra: what its tiny config has beside SIZES.

    plain: words of the sentence with which the packed path is left for the plain one; None where it is kept.
    gap: largest mean |difference| of log-probs from those of the model's own logits.
    """

    name: str
    kind: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    plain: str | None = None
    gap: float = 1e-6


STATE = "know no packed sequences"
FAMILIES = (
    Family("Llama 2, 3", "llama"),
    Family("Mistral 7B v0.1 (window)", "mistral", {"sliding_window": 4}),
    Family("Mistral", "mistral", {"sliding_window": None}),
    Family("Ministral (window)", "ministral", MIXED),
    Family("Ministral 3", "ministral3", {"sliding_window": None}),
    Family("Mixtral", "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    Family("Qwen2, Qwen2.5", "qwen2"),
    Family("Qwen2 with windows", "qwen2", {"use_sliding_window": True, **MIXED}),
    Family("Qwen2-MoE", "qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 16}),
    Family("Qwen3", "qwen3"),
    Family("Qwen3-MoE", "qwen3_moe", {**EXPERTS, "decoder_sparse_step": 1}),
    Family("Gemma", "gemma"),
    Family("Gemma 2 (windows, soft caps)", "gemma2", {**MIXED, "query_pre_attn_scalar": 8}),
    Family("Gemma 3 (windows)", "gemma3_text", {**MIXED, "query_pre_attn_scalar": 8}),
    Family(
        "Gemma 4 (windows)",
        "gemma4_text",
        {**MIXED, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 64},
    ),
    Family("Phi-3", "phi3", {"sliding_window": None}),
    Family("Phi-3-mini (window)", "phi3", {"sliding_window": 4}),
    Family("Phi-2 (head with a bias)", "phi", {}, "its log-probs differ"),
    Family("OLMo", "olmo"),
    Family("OLMo 2", "olmo2"),
    Family("OLMo 3 (windows)", "olmo3", MIXED),
    Family("OLMoE", "olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    Family("Cohere", "cohere", {"logit_scale": 0.25}),
    Family("Cohere 2 (windows)", "cohere2", {**MIXED, "logit_scale": 0.25}),
    Family("EXAONE 4 (windows)", "exaone4", {**MIXED, "sliding_window_pattern": 2}),
    Family("StarCoder2 (window)", "starcoder2", {"sliding_window": 4}),
    Family("SmolLM3", "smollm3"),
    Family("GLM", "glm"),
    Family("GLM-4", "glm4"),
    Family("Granite", "granite", {"logits_scaling": 4.0}),
    Family("Apertus", "apertus"),
    Family("Arcee", "arcee"),
    Family("Seed-OSS", "seed_oss"),
    Family("ERNIE 4.5", "ernie4_5"),
    Family("Hunyuan", "hunyuan_v1_dense"),
    Family("gpt-oss (window, sinks)", "gpt_oss", {**MIXED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    Family("DeepSeek V2", "deepseek_v2", {**DEEPSEEK, "topk_method": "group_limited_greedy"}),
    Family(
        "DeepSeek V3, Kimi K2",
        "deepseek_v3",
        {**DEEPSEEK, "topk_method": "noaux_tc", "scoring_func": "sigmoid"},  # of published configs: vLLM reads them
    ),
    Family("MiniCPM3", "minicpm3", LATENT, gap=1e-5),
    Family("GLM-4.7 lite", "glm4_moe_lite", {**DEEPSEEK, "n_group": 1}),
    Family("GPT-NeoX, Pythia", "gpt_neox", {"num_key_value_heads": 4}),  # vLLM reads it, transformers does not
    Family("GPT-2", "gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    Family("OPT", "opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    Family("StableLM", "stablelm", {}, "hand on"),
    Family("Nemotron", "nemotron", {}, "hand on"),
    Family(
        "Llama 4 (text)",
        "llama4_text",
        {
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 8,
            "intermediate_size_mlp": 48,
        },
        "",
    ),
    Family("Falcon (alibi)", "falcon", {"alibi": True, "new_decoder_architecture": False, "head_dim": None}, ""),
    Family("BLOOM", "bloom", {"n_head": 4, "n_layer": 2}, ""),
    Family("MPT", "mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}, ""),
    Family("Qwen3-Next", "qwen3_next", {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16}, STATE),
    Family("Qwen3.5", "qwen3_5_text", DELTA, STATE),
    Family("LFM2", "lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}, STATE),
    Family(
        "Granite 4 H",
        "granitemoehybrid",
        {**MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 32},
        STATE,
    ),
    Family("Falcon-H1", "falcon_h1", {**MAMBA, "mamba_d_ssm": 32, "mamba_d_head": 8}, ""),
    Family("Mamba 2", "mamba2", {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1}, ""),
    Family(
        "Jamba",
        "jamba",
        {
            "num_experts": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        STATE,
    ),
)


SMALL: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "sliding_window_pattern": 2,
    "no_rope_layer_interval": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "experts_per_token": 2,
    "max_window_layers": 1,
    **{name: size for name, size in DELTA.items() if name != "layer_types"},
}
"""What a published config is made small by, where it says the same."""


def tiny(family: Family, *, seed: int = 0) -> Any:
    """A random model of the family, in float32, with weights large enough that log-probs differ visibly."""
    sizes = {name: size for name, size in {**SIZES, **family.extra}.items() if size is not None or name != "head_dim"}
    return _random(family.kind, sizes, seed)


def shrunk(config: Path, tokenizer: Any, *, seed: int = 0) -> Any:
    """A random model of the published config in that file with small sizes: one layer of each of its kinds, and the
    tokenizer's vocabulary."""
    published = json.loads(config.read_text())
    settings = {name: SMALL.get(name, value) if value is not None else None for name, value in published.items()}
    settings |= {name: SMALL[name] for name in ("hidden_size", "num_attention_heads", "head_dim")}
    kinds = list(dict.fromkeys(published.get("layer_types", ())))
    settings |= {"layer_types": kinds, "num_hidden_layers": len(kinds)} if kinds else {}
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return _random(settings.pop("model_type"), settings | tokens | {"vocab_size": len(tokenizer)}, seed)


def _random(kind: str, settings: Mapping[str, Any], seed: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    from alignkit.models.pretrained import own_attention, without_dropout

    config = without_dropout(AutoConfig.for_model(kind, **settings))
    how = own_attention(config, AutoModelForCausalLM)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=how, dtype=torch.float32).eval()
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 or name.endswith(("sinks", "bias")):
                nn.init.normal_(parameter, std=0.15)
    return model
