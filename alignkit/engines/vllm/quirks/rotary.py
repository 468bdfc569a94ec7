"""Rotary embeddings of latent attention in vLLM on a CPU."""

from __future__ import annotations

from typing import Any


def rotate_whole_queries(model: Any) -> None:
    """Lets latent attention (DeepSeek V2, GLM-4.7 lite) rotate by torch's arithmetic instead of vLLM's CPU kernel.

    The kernel of vLLM 0.32 (csrc/cpu/pos_encoding.cpp, `rotary_embedding`) takes the number of heads from the last axis
    and steps from token to token by the last but one. Latent attention gives it (token, head, width): it finds one
    head, and of T tokens with H heads rotates the first T of T x H rows, by the positions 0 to T - 1, and no other;
    log-probs were 0.44 nats from transformers'. The key, which has one head, is right, and so are other models, which
    give (token, heads x width), and DeepSeek's YaRN, which does not use the kernel.
    """
    for module in model.modules():
        rotary = getattr(module, "rotary_emb", None)
        if rotary is not None and hasattr(module, "kv_lora_rank"):
            rotary._forward_method = rotary.forward_native
