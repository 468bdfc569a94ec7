"""The proof of a GGUF file: its weights, settings, rotation, words and log-probs are the model's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit.errors import ExportError
from alignkit.run.export.gguf.families import stored
from alignkit.run.export.gguf.read import GgufFile
from alignkit.run.export.gguf.vocabulary import adds_bos
from alignkit.run.export.gguf.write import layout, packed
from alignkit.run.export.proof import (
    GAPS,
    TOLERANCE,
    check_logprobs,
    check_words,
    logprobs,
    probe,
    round_weights,
    words,
)

HALF_STEP = 1 / 254 + 2**-11
"""Largest rounding of Q8_0, of the largest number of a block: half a step, and the step itself in float16."""
FREE = {
    "model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "initializer_range",
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "pretraining_tp", "output_hidden_states",
    "output_attentions", "return_dict", "id2label", "label2id", "problem_type", "chunk_size_feed_forward",
    "is_encoder_decoder", "max_window_layers", "quantization_config", "original_max_position_embeddings",
    "tokenizer_class", "auto_map", "is_llama_config", "rope_interleaved", "cache_implementation", "resid_pdrop",
    "embd_pdrop", "transformers.js_config", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise",
    "rope_parameters", "rope_theta", "rope_scaling", "head_dim", "layer_types", "sliding_window", "use_sliding_window",
}  # fmt: skip
"""Settings that nothing is computed with, and (the last line) those that are compared by what they do."""


def check_gguf(model: Any, tokenizer: Any, file: Path, dtype: str) -> dict[str, float]:
    """Reads `file` back and returns how far it is from `model` on the probe, in nats a token.

    gap: from the model as it is; rounded: from the model with rounded weights, which it must be. The model's weights
    are rounded when this returns. Raises ExportError that says the first difference.
    """
    read = GgufFile(file)
    check_settings(model.config, read, file)
    check_rotation(model, read, file)
    check_weights(stored(model), read, file, dtype)
    begins = tokenizer.bos_token_id is not None and adds_bos(tokenizer)
    if bool(read.value("tokenizer.ggml.add_bos_token")) != begins:
        raise ExportError(f"{file}: a text {'does not begin' if begins else 'begins'} with BOS; nothing was exported")
    check_words(words(tokenizer, model), words(read.tokenizer(), stops=read.stops()), file, tokenizer)
    sequences = probe(model, tokenizer)
    said = logprobs(read.model(), sequences)
    gap = check_logprobs(said, logprobs(model, sequences), file, tolerance=GAPS[dtype], of="the model")
    round_weights(model, lambda name, weight: rounded(name, weight, dtype))
    wanted = logprobs(model, sequences)
    close = check_logprobs(said, wanted, file, tolerance=TOLERANCE, of=f"the model rounded to {dtype}")
    return {"gap": gap, "rounded": close}


def rounded(name: str, weight: Tensor, dtype: str) -> Tensor:
    """A weight as the file's number format has it; rows are kept apart, so their order does not matter."""
    from gguf import dequantize

    return torch.from_numpy(dequantize(packed(name, weight, dtype), layout(tuple(weight.shape), dtype)[2]).copy())


def check_settings(config: Any, read: GgufFile, file: Path) -> None:
    """Compares the model's config with the one that the file gives."""
    own, its = computed_with(config), computed_with(read.config())
    for name, value in own.items():
        if not _same(value, its.get(name)):
            said = "nothing" if its.get(name) is None else its[name]
            raise ExportError(f"{file}: {name} is {value} in the model and {said} in the file; nothing was exported")


def computed_with(config: Any) -> Mapping[str, Any]:
    """What a config says that changes numbers: its settings, and what each layer sees."""
    said = {name: value for name, value in config.to_dict().items() if name not in FREE and name[0] != "_"}
    heads = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]
    sees = [window if kind == "sliding_attention" else None for kind in kinds]
    return {**said, "head_dim": heads, "layers' window": sees if any(sees) else None}


def check_rotation(model: Any, read: GgufFile, file: Path) -> None:
    """Compares rotary frequencies: those that the trainer turns by, those that llama.cpp will."""
    turner = model.get_decoder().rotary_emb
    for kind, its in read.frequencies().items():
        own = getattr(turner, f"{kind}inv_freq")
        if own.shape != its.shape or not torch.allclose(own, its, rtol=1e-5, atol=0):
            at = int((own / its - 1).abs().argmax()) if own.shape == its.shape else 0
            both = f"frequency {at} is {own[at]:.6g} in the model and {its[at]:.6g} in the file"
            raise ExportError(f"{file}: rotary positions differ: {both}; nothing was exported")


def check_weights(wanted: Iterable[tuple[str, Tensor]], read: GgufFile, file: Path, dtype: str) -> None:
    """Compares every weight in turn: to the bit of its rounding, of Q8_0 within half a step of its block."""
    left = read.names
    for name, weight in wanted:
        found = read.weight(name)
        if found is None:
            raise ExportError(f"{file}: the weight {name} is missing; nothing was exported")
        left.discard(name)
        kind, held = found
        gap = (held - weight).abs()
        if kind != layout(tuple(weight.shape), dtype)[2].name or not _rounded_right(kind, weight, held, gap):
            raise ExportError(f"{file}: {name} ({kind}) is up to {float(gap.max()):.3g} off; nothing was exported")
    if left:
        raise ExportError(f"{file}: {len(left)} weights are the file's alone, first {min(left)}; nothing was exported")


def _rounded_right(kind: str, weight: Tensor, held: Tensor, gap: Tensor) -> bool:
    if kind == "Q8_0":
        largest = weight.reshape(-1, 32).abs().amax(-1, keepdim=True)
        return bool((gap.reshape(-1, 32) <= (largest * HALF_STEP).clamp(min=2**-24 * 127)).all())
    return torch.equal(held, {"F32": weight, "F16": weight.half().float(), "BF16": weight.bfloat16().float()}[kind])


def _same(own: Any, its: Any) -> bool:
    if isinstance(own, float) and isinstance(its, int | float):
        return abs(own - its) <= 1e-6 * abs(own)  # the file has 32 bits
    return own == its or (not own and not its)
