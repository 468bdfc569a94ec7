"""A LoRA adapter apart from its base: its matrices by the layers that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from alignkit.errors import RecipeError
from alignkit.models.adapted import adapts_stack, base_model, has_lora, is_adapted, is_trained_whole

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

CURE = "set engine.lora: merged"


def adapter_matrices(
    model: Any, *, gather: Callable[[list[Parameter]], AbstractContextManager[Any]] = nullcontext
) -> Iterator[tuple[str, Tensor]]:
    """(`<layer>.lora_A.weight`, A) and (`<layer>.lora_B.weight`, s B) of each adapted layer: it computes W x + s B A x.

    A is (rank, inputs) and the parameter itself, s B is (outputs, rank) and new; s as in `effective_weight`.
    gather: a context within which the given parameters are whole; every rank must run the iterator to its end.
    """
    for name, layer in base_model(model).named_modules():
        if not has_lora(layer):
            continue
        adapter = layer.active_adapters[0]
        first, second = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        with gather([first, second]):
            yield f"{name}.lora_A.weight", first.detach()
            yield f"{name}.lora_B.weight", second.detach() * layer.scaling[adapter]


def adapter_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of each matrix. Raises RecipeError for an adapter that is more than two matrices a layer."""
    base = base_model(model)
    for words in (base.get_input_embeddings(), base.get_output_embeddings()):
        if words is not None and is_adapted(words):
            name = next(name for name, module in base.named_modules() if module is words)
            raise RecipeError(f"engine.lora: vLLM takes no adapter of {name}, the model's words; {CURE}")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in base.named_modules():
        if is_trained_whole(layer):
            raise RecipeError(f"engine.lora: {name} is trained whole, which no adapter says; {CURE}")
        if adapts_stack(layer):
            raise RecipeError(f"engine.lora: vLLM takes no adapter of {name}, which is no linear layer; {CURE}")
        if has_lora(layer):
            [adapter] = layer.active_adapters
            if adapter in layer.lora_magnitude_vector:
                raise RecipeError(f"engine.lora: vLLM has no DoRA, which {name} is trained with; {CURE}")
            shapes[f"{name}.lora_A.weight"] = (layer.r[adapter], layer.in_features)
            shapes[f"{name}.lora_B.weight"] = (layer.out_features, layer.r[adapter])
    return shapes
