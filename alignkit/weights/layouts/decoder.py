"""The tensors of a decoder, by their checkpoint names, and along what vLLM cuts each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignkit.types.layout import Shape

Cut = Literal["whole", "rows", "columns", "kv_rows", "vocabulary"]
"""What a worker has of it: all; an equal share of its rows or columns; the rows of its key-value heads; its words."""
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@dataclass(frozen=True, slots=True)
class Cuttable:
    """layer: None outside of the layers. expert: the one that it belongs to, None otherwise."""

    shape: Shape
    cut: Cut
    layer: int | None = None
    expert: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A Llama-like decoder: grouped attention and a gated layer, or experts of it.

    intermediate: of the gated layer, or of one expert. experts: 0 for none. tied: the head is the embedding.
    qkv_bias: q, k and v have biases. head_norms: q and k are normalised head by head.
    lora_rank: of adapters on all linear layers of attention and gated layers; 0 for none.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    experts: int = 0
    tied: bool = False
    qkv_bias: bool = False
    head_norms: bool = False
    lora_rank: int = 0

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def tensors(self) -> dict[str, Cuttable]:
        """The weights, in the order in which the model uses them; an adapter's are in `adapter`."""
        found = {EMBEDDING: Cuttable((self.vocabulary, self.width), "vocabulary")}
        for layer in range(self.layers):
            found |= self._layer(layer)
        found[NORM] = Cuttable((self.width,), "whole")
        if not self.tied:
            found[HEAD] = Cuttable((self.vocabulary, self.width), "vocabulary")
        return found

    @property
    def adapter(self) -> dict[str, Cuttable]:
        """LoRA's matrices alone: A is cut where its layer is cut by columns, B where it is cut by rows."""
        found = {}
        for name, tensor in self.tensors.items():
            if self.lora_rank and tensor.layer is not None and len(tensor.shape) == 2 and tensor.expert is None:
                stem, (rows, columns) = name.removesuffix(".weight"), tensor.shape
                a_cut: Cut = "columns" if tensor.cut == "columns" else "whole"
                b_cut: Cut = "whole" if tensor.cut == "columns" else tensor.cut
                found[f"{stem}.lora_A.weight"] = Cuttable((self.lora_rank, columns), a_cut, tensor.layer)
                found[f"{stem}.lora_B.weight"] = Cuttable((rows, self.lora_rank), b_cut, tensor.layer)
        return found

    def _layer(self, layer: int) -> dict[str, Cuttable]:
        stem, width, size = f"model.layers.{layer}.", self.width, self.head_size
        found = {"input_layernorm.weight": Cuttable((width,), "whole", layer)}
        for name, heads, cut in (
            ("q", self.heads, "rows"),
            ("k", self.kv_heads, "kv_rows"),
            ("v", self.kv_heads, "kv_rows"),
        ):
            found[f"self_attn.{name}_proj.weight"] = Cuttable((heads * size, width), cut, layer)
            if self.qkv_bias:
                found[f"self_attn.{name}_proj.bias"] = Cuttable((heads * size,), cut, layer)
        if self.head_norms:
            found |= {f"self_attn.{name}_norm.weight": Cuttable((size,), "whole", layer) for name in ("q", "k")}
        found["self_attn.o_proj.weight"] = Cuttable((width, self.heads * size), "columns", layer)
        found["post_attention_layernorm.weight"] = Cuttable((width,), "whole", layer)
        if self.experts:
            found["mlp.gate.weight"] = Cuttable((self.experts, width), "whole", layer)
        for expert in range(self.experts) if self.experts else (None,):
            where = "mlp." if expert is None else f"mlp.experts.{expert}."
            for name in ("gate", "up"):
                found[f"{where}{name}_proj.weight"] = Cuttable((self.intermediate, width), "rows", layer, expert)
            found[f"{where}down_proj.weight"] = Cuttable((width, self.intermediate), "columns", layer, expert)
        return {stem + name: tensor for name, tensor in found.items()}
