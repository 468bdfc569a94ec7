"""What a recipe may say of its model."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from alignkit.recipe.schema.section import Section


class Lora(Section):
    rank: PositiveInt = 16
    """Rank of the adapter matrices."""
    alpha: PositiveFloat = 32.0
    """The adapter's output is scaled by alpha / rank."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which layers get an adapter: all linear ones but the head, or any by name, `lm_head` and `embed_tokens` too."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA)."""
    dora: bool = False
    """Train the length of each output's weights by itself (DoRA)."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that are trained whole beside the adapters, by name."""


class Scratch(Section):
    """A character-level Llama built from nothing, for learning, tests and smoke recipes."""

    characters: str = "0123456789+= "
    """The vocabulary, one token a character (pad, bos and eos are added)."""
    layers: PositiveInt = 3
    """Number of transformer layers."""
    hidden: PositiveInt = 96
    """Width of the residual stream."""
    heads: PositiveInt = 4
    """Attention heads; divides `hidden`."""
    context: PositiveInt = 64
    """Longest sequence in tokens."""


class Model(Section):
    path: str | None = None
    """A folder, a hub id, `smollm2-135m-instruct` or the encoder `all-minilm-l6-v2` (both out of Python packages).
    The folder of a LoRA adapter is loaded on its base."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    scratch: Scratch | None = None
    """Build a small model instead of loading one; exactly one of `path` and `scratch` is given."""
    dtype: Literal["auto", "float32", "bfloat16"] = "bfloat16"
    """Arithmetic of forward and backward; auto: bfloat16 where a run begins on hardware that computes it, else float32.
    Trained weights are always float32."""
    lora: Lora | None = None
    """Train a LoRA adapter instead of all weights; where `path` is an adapter's folder, go on with that one."""
    quantization: Literal["nf4"] | None = None
    """Hold the linear layers under the adapter in 4 bits (QLoRA): a quarter of their memory. Needs bitsandbytes."""
    frozen: bool = False
    """Train nothing but the head of a reward model."""
    chat_template: str | None = None
    """A Jinja chat template that replaces the tokenizer's own, or the path of a file that holds one."""
