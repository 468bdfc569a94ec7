"""What a trained model's checkpoint holds: every weight under its checkpoint name, adapters merged."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from alignkit.models.adapted import base_model, effective_weight, has_lora, numbers
from alignkit.models.adapter_matrices import adapter_matrices

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

VALUE_HEAD = "value_head"  # a critic's, on layers it shares with the policy: no weight of a policy


Part = Literal["merged", "base", "adapter"]
"""What travels: all weights with the adapter's work in them, those of its base, or its own matrices."""


def named_policy_weights(model: Module, *, part: Part = "merged") -> Iterator[tuple[str, Tensor]]:
    """(checkpoint name, full tensor) of every weight, tied weights once; adapters are merged on the fly into new ones.

    part: "base" leaves the adapter out, "adapter" yields nothing but its matrices (see `adapter_matrices`).

    The model is not changed. Tensors without an adapter are the parameters themselves (detached), not copies. Where an
    adapter makes a head another matrix than the embedding it was tied to, both are yielded (see `unties`).
    Of a model whose weights are cut one layer is whole at a time; every rank must run the iterator to its end.
    """
    if part == "adapter":
        yield from adapter_matrices(model, gather=whole)
        return
    base = base_model(model)
    for weights in _by_layer(base, merged=part == "merged"):
        yield from checkpoint_names(base, weights).items()
    yield from checkpoint_names(base, held_buffers(base)).items()


def merged_weights(model: Module) -> Iterator[tuple[str, Tensor]]:
    """The same, but for buffers, by the names that the architecture's own parameters have."""
    for layer in _by_layer(base_model(model)):
        yield from layer.items()


def policy_shapes(model: Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of each of `merged_weights`, without computing them."""
    return {name: whole_shape(held.parameter) for name, held in _held(base_model(model)).items()}


def whole(parameters: Iterable[Any], *, write: bool = False) -> AbstractContextManager[Any]:
    """Within it the parameters are whole on every rank, to be read. All ranks enter it with the same ones.

    write: keep what the first rank sets them to. Does nothing where no parameter is cut.
    """
    cut = [parameter for parameter in parameters if is_cut(parameter)]
    if not cut:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(cut, modifier_rank=0 if write else None)


def is_cut(parameter: Tensor) -> bool:
    """Whether this rank holds a shard of the parameter; its own data is empty then, but for the time in `whole`."""
    return hasattr(parameter, "ds_id")


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """Its shape when it is whole and no longer quantised."""
    return tuple(getattr(parameter, "ds_shape", getattr(parameter, "quant_state", parameter).shape))


@dataclass(frozen=True)
class Held:
    """A parameter of the checkpoint, and the layer that changes it (None: it is what it is)."""

    parameter: Parameter
    layer: Any

    @property
    def needed(self) -> list[Parameter]:
        return [self.parameter, *(p for p in self.layer.parameters())] if self.layer is not None else [self.parameter]

    def value(self) -> Tensor:
        return (numbers(self.parameter) if self.layer is None else effective_weight(self.layer)).detach()


def _held(base: Any, *, merged: bool = True) -> dict[str, Held]:
    found: dict[str, Held] = {}
    seen: dict[int, bool] = {}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        if name.startswith(f"{VALUE_HEAD}.") or ".lora_" in name or ".original_module." in name:
            continue
        layer = _changer(base, name) if merged else None
        # a tied weight is held once, unless an adapter makes something else of it in one of its places
        if id(parameter) in seen and layer is None and not seen[id(parameter)]:
            continue
        seen[id(parameter)] = seen.get(id(parameter), False) or layer is not None
        found[_plain(name)] = Held(parameter, layer)
    return found


def _changer(base: Any, name: str) -> Any:
    """The layer whose LoRA matrices change a parameter; experts have several around them, one a parameter."""
    owner, _, kind = name.rpartition(".")
    while owner.endswith(".base_layer"):
        owner = owner.removesuffix(".base_layer")
        layer = base.get_submodule(owner)
        if has_lora(layer) and getattr(layer, "parameter_name", "weight") == kind:
            return layer
    return None


def held_by_layer(base: Any, *, merged: bool = True) -> list[dict[str, Held]]:
    """What the checkpoint holds by name: of one transformer layer together, of the rest that of one module.

    merged: whether adapters change it.
    """
    layers: dict[str, dict[str, Held]] = {}
    for name, held in _held(base, merged=merged).items():
        numbered = re.match(r"(.*?\.\d+)\.", name)
        layers.setdefault(numbered[1] if numbered else name.rpartition(".")[0], {})[name] = held
    return list(layers.values())


@contextmanager
def values_of(layer: Mapping[str, Held]) -> Generator[dict[str, Tensor]]:
    """Within it the values of what is held, whole. All ranks enter it with the same."""
    import torch

    with whole({id(p): p for held in layer.values() for p in held.needed}.values()):
        with torch.no_grad():
            values = {name: held.value() for name, held in layer.items()}
        yield values


def held_buffers(base: Any) -> dict[str, Tensor]:
    """Those that a checkpoint holds."""
    persistent = set(base.state_dict())
    return {
        _plain(name): tensor
        for name, tensor in base.named_buffers()
        if name in persistent and ".original_module." not in name
    }


def checkpoint_names(base: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undoes what transformers renames and fuses while loading some architectures (experts, for example)."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(base, weights)


def _by_layer(base: Any, *, merged: bool = True) -> Iterator[dict[str, Tensor]]:
    for layer in held_by_layer(base, merged=merged):
        with values_of(layer) as values:
            yield values


def _plain(name: str) -> str:
    """A parameter's name as it is without peft around its module."""
    return re.sub(r"\.modules_to_save\.[^.]+\.", ".", re.sub(r"(\.base_layer)+\.", ".", name))
