"""Tiny random models of real families with tokenizers of their kind, for the tests of export."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from alignkit.models.save import save_pretrained
from alignkit.run.export.gguf.vocabulary import pre_tokenizers
from tests.families import tokenizer as family_tokenizer
from tests.model_families import SIZES

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GEMMA3 = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}


@dataclass(frozen=True)
class Exportable:
    """A family as people call it: transformers' kind, the template and pre-tokenizer of its own, other settings."""

    kind: str
    template: str
    pre: str
    settings: Mapping[str, Any] = field(default_factory=dict)


FAMILIES = {
    "SmolLM2": Exportable("llama", "smollm2", "smollm", {"tie_word_embeddings": True}),
    "Llama 3.1, 3.2, 3.3": Exportable("llama", "llama_3_1", "llama-bpe", {"rope_parameters": LLAMA3}),
    "Mistral": Exportable("mistral", "mistral_small", "tekken", {"sliding_window": None}),
    "Qwen2.5": Exportable("qwen2", "qwen2_5", "qwen2"),
    "DeepSeek-R1-Distill-Qwen": Exportable("qwen2", "deepseek_r1_distill", "qwen2"),
    "Qwen3": Exportable("qwen3", "qwen3", "qwen2", {"head_dim": 16, "tie_word_embeddings": True}),
    "Phi-4": Exportable("phi3", "phi_4", "llama-bpe", {"sliding_window": None}),
    "Gemma 2": Exportable("gemma2", "gemma_2", "", {"sliding_window": 4, "query_pre_attn_scalar": 8}),
    "Gemma 3": Exportable(
        "gemma3_text",
        "gemma_3",
        "",
        {"sliding_window": 4, "query_pre_attn_scalar": 8, "num_hidden_layers": 6, "rope_parameters": GEMMA3},
    ),
    "Qwen3 MoE": Exportable(
        "qwen3_moe",
        "qwen3",
        "qwen2",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True},
    ),
    "OLMo 2": Exportable("olmo2", "olmo_2", "llama-bpe"),
    "SmolLM3": Exportable("smollm3", "smollm2", "llama-bpe", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    "Llama 2": Exportable("llama", "llama_2", "▁"),
    "Mixtral": Exportable("mixtral", "mistral_7b_v0_3", "▁", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "OLMoE": Exportable(
        "olmoe", "olmo_2", "gpt-2", {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4}
    ),
    "Mistral 7B v0.2, v0.3": Exportable("mistral", "mistral_7b_v0_3", "▁", {"sliding_window": None}),
}


def tokenizer_of(template: str, pre: str = "gpt-2") -> Any:
    """A family's tokenizer, one's own to change: its template and special tokens, one token per byte. pre: llama.cpp's
    name of what splits its texts; of "" it is SentencePiece's kind, of "▁" with a space before each text."""
    tokenizer = copy.deepcopy(family_tokenizer(template))
    if pre in ("", "▁"):
        return pieces(tokenizer, pre)
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec["pre_tokenizer"] = pre_tokenizers()[pre]
    number = len(spec["model"]["vocab"])  # those that are added come after it
    for left, right in (merge.split() for merge in ("Ġ t", "h e", "i n", "Ġ a", "Ġt he", "1 2", "Ġa n")):
        spec["model"]["vocab"][left + right], number = number, number + 1
        spec["model"]["merges"].append([left, right])
    for begins in (spec["post_processor"] or {}).get("special_tokens", {}).values():
        begins["ids"] = [index + number - len(tokenizer.backend_tokenizer.get_vocab(False)) for index in begins["ids"]]
    return rebuilt(tokenizer, Tokenizer.from_str(json.dumps(spec)))


def pieces(tokenizer: Any, prefix: str = "") -> Any:
    """The same with SentencePiece's kind of vocabulary: bytes, letters, and merges of some."""
    known = list(dict.fromkeys([*tokenizer.all_special_tokens, "<unk>"]))
    merged = ["▁a", "th", "▁th", "▁the", "in", "an", "▁an", "on", "qu", "and", "▁and", "er"]
    letters = [*"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?+=()<>|_\n"]
    tokens = list(dict.fromkeys([*known, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *merged]))
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = generate_merges(vocab, {token: -index for token, index in vocab.items() if token in merged})
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    spaces = normalizers.Replace(" ", "▁")
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(prefix), spaces]) if prefix else spaces
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in known])
    begin = [(tokenizer.bos_token, vocab[tokenizer.bos_token])]
    inner.post_processor = processors.TemplateProcessing(single=f"{tokenizer.bos_token} $A", special_tokens=begin)
    return rebuilt(tokenizer, inner, unk_token="<unk>")


def rebuilt(tokenizer: Any, inner: Tokenizer, **names: str) -> Any:
    """A tokenizer of the same special tokens and template around another inside."""
    named = {key: getattr(tokenizer, key) for key in ("bos_token", "eos_token", "pad_token") if getattr(tokenizer, key)}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner, clean_up_tokenization_spaces=False, model_max_length=4096, **named, **names
    )
    wrapped.chat_template = tokenizer.chat_template
    return wrapped


def tiny(kind: str, tokenizer: Any, **settings: Any) -> Any:
    """A two-layer model of transformers' kind `kind`, with log-probs that differ visibly and norms that are not 1."""
    sizes = {
        **SIZES,
        "vocab_size": len(tokenizer) + 3,
        "max_position_embeddings": 256,
        "initializer_range": 0.15,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **settings}))
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.2)
    return model.eval()


def write(folder: Path, name: str) -> Path:
    """A tiny model of a family as a folder."""
    known = FAMILIES[name]
    tokenizer = tokenizer_of(known.template, known.pre)
    save_pretrained(tiny(known.kind, tokenizer, **known.settings), tokenizer, folder)
    return folder
