"""A model as it computes, seen through what peft put around it: the model inside, the matrix of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def base_model(model: Any) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def effective_weight(layer: Any) -> Tensor:
    """W of a plain layer, W + s B A of one with LoRA, m (W + s B A) / |W + s B A| with DoRA (arXiv 2402.09353, eq. 5).

    layer: a linear or embedding layer as peft wraps it, or as it is; what it puts around a parameter of all experts;
    of one that is trained whole (`modules_to_save`) the trained copy; where adapters are switched off W. s: alpha /
    rank, with rsLoRA alpha / sqrt(rank). DoRA's norm runs over the inputs of each output and takes no gradient, as in
    peft's own forward. Carries gradients to whatever is trained.
    """
    if adapts_stack(layer):
        weight = layer.get_param()
        for adapter in () if layer.disable_adapters else layer.active_adapters:
            weight = weight + layer.get_delta_weight(adapter)
        return weight
    if is_adapted(layer) and layer.disable_adapters:
        return effective_weight(layer.original_module if is_trained_whole(layer) else layer.base_layer)
    if is_trained_whole(layer):
        return effective_weight(layer.modules_to_save[layer.active_adapters[0]])
    if not has_lora(layer):
        return numbers(layer.weight)
    weight = numbers(layer.base_layer.weight)
    for adapter in layer.active_adapters:
        weight = _adapted(layer, adapter, weight)
    return weight


def numbers(weight: Tensor) -> Tensor:
    """The parameter itself, or what one in 4 bits stands for."""
    if not hasattr(weight, "quant_state"):
        return weight
    from alignkit.models.quantized import dequantized

    return dequantized(weight)


def has_lora(layer: Any) -> bool:
    """Whether peft has put LoRA matrices around a layer."""
    return hasattr(layer, "get_delta_weight") and hasattr(layer, "base_layer")


def adapts_stack(layer: Any) -> bool:
    """Whether peft has put LoRA matrices around a parameter that is no layer of its own: experts, stacked."""
    return has_lora(layer) and hasattr(layer, "parameter_name")


def is_adapted(layer: Any) -> bool:
    """Whether a layer computes with other weights than its base has: LoRA, or a copy that is trained whole."""
    return has_lora(layer) or is_trained_whole(layer)


def is_trained_whole(layer: Any) -> bool:
    """Whether peft keeps a copy of a layer that is trained as a whole."""
    return hasattr(layer, "modules_to_save") and hasattr(layer, "original_module")


def added_rows(layer: Any, adapter: str, begin: int = 0, end: int | None = None) -> Tensor:
    """Rows `begin` to `end` of s B A as LoRA adds it to the stored weight of the layer."""
    embedding = adapter in layer.lora_embedding_A
    first, second = (
        (layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter])
        if embedding
        else (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight)
    )
    if _turned(layer, adapter):
        return ((second @ first[:, begin:end]) * layer.scaling[adapter]).T
    return (second[begin:end] @ first) * layer.scaling[adapter]


def is_dora(layer: Any, adapter: str) -> bool:
    """Whether the adapter of a layer with LoRA has a magnitude of its own for each output."""
    return adapter in layer.lora_magnitude_vector


def _turned(layer: Any, adapter: str) -> bool:
    """Whether its weight is stored as (input, output), as embeddings and GPT-2's layers are."""
    return adapter in layer.lora_embedding_A or layer.fan_in_fan_out


def _adapted(layer: Any, adapter: str, weight: Tensor) -> Tensor:
    whole = weight + added_rows(layer, adapter)  # in float32, also of a base that is held in less
    if not is_dora(layer, adapter):
        return whole
    along = 0 if _turned(layer, adapter) else 1
    magnitude = layer.lora_magnitude_vector[adapter].weight.unsqueeze(along)
    return magnitude / whole.detach().norm(dim=along, keepdim=True) * whole
