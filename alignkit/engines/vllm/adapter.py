"""The one LoRA adapter that vLLM's model holds beside its base: put there at each push, and read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

PATH = "shared memory"  # vLLM asks for one and opens it for adapters only that it does not hold


def request(version: int, number: int) -> Any:
    """What makes a request compute with the adapter of this number. Its name is of that push alone, because vLLM finds
    cached prefixes by the name."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"version {version}, push {number}", number, PATH)


def homeless(manager: Any, matrices: Iterable[str]) -> list[str]:
    """Layers of the adapter that have no place in vLLM's model, or one that it does not compute with.

    manager: the worker's. matrices: their names.
    """
    return [name for name, home in _homes(manager._adapter_manager, matrices).items() if not home]


def put(manager: Any, tensors: Mapping[str, Tensor], number: int) -> list[str]:
    """Replaces the adapter by these matrices; the names of those that vLLM holds otherwise.

    number: what vLLM knows it by; each push has one of its own.
    """
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    manager.remove_all_adapters()
    inner = manager._adapter_manager
    rank = max(tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name)
    unscaled = PEFTHelper(r=rank, lora_alpha=rank, target_modules=[])  # B comes with its scale
    adapter = LoRAModel.from_lora_tensors(
        number,
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()},
        unscaled,
        device="cpu",
        dtype=manager.lora_config.lora_dtype,
        weights_mapper=_renames(inner.model),
    )
    inner.add_adapter(adapter)
    inner.activate_adapter(number)
    if inner.lora_index_to_id != [number]:
        return ["the adapter as a whole"]
    return stale_matrices(inner, {_module(inner.model, name): tensor for name, tensor in tensors.items()})


def stale_matrices(manager: Any, sent: Mapping[tuple[str, str], Tensor]) -> list[str]:
    """Matrices that vLLM's one slot holds otherwise than `sent`, to the bit; a layer that got none must hold zeros.

    manager: vLLM's, with `modules` and `packed_modules`. sent: by (vLLM's name of the layer, `lora_A` or `lora_B`).
    Under tensor parallelism a worker holds its share: of A's columns in layers that share their inputs out, of B's rows
    in those that share their outputs out.
    """
    stale = []
    for module, slice_number, name in _places(manager):
        for kind, stacked in (("lora_A", module.lora_a_stacked), ("lora_B", module.lora_b_stacked)):
            held = stacked[slice_number][0, 0]
            expected = torch.zeros_like(held)
            tensor = sent.get((name, kind))
            if tensor is not None:
                rank, size = getattr(module, "tp_rank", 0), getattr(module, "tp_size", 1)
                axis = 1 if kind == "lora_A" else 0
                own = share(tensor, axis, min(held.shape[axis], tensor.shape[axis]), rank, size)
                expected[: own.shape[0], : own.shape[1]] = own.to(held.device, held.dtype)
            if not torch.equal(held, expected):
                stale.append(f"{name}.{kind}")
    return stale


def share(tensor: Tensor, axis: int, length: int, rank: int, size: int) -> Tensor:
    """The part of `length` along an axis that worker `rank` of `size` holds; parts fewer than workers are repeated."""
    parts = tensor.shape[axis] // length
    return tensor.narrow(axis, rank * parts // size * length, length)


def _homes(manager: Any, names: Iterable[str]) -> dict[str, bool]:
    """Of each adapted layer, whether there is a place for it. Latent attention computes with matrices that vLLM has
    made of `kv_b_proj`, whatever that itself would compute."""
    places = {name for _, _, name in _places(manager)}
    absorbs = any(hasattr(module, "W_UV") for module in manager.model.modules())
    homes = {}
    for name in names:
        layer, _ = _module(manager.model, name)
        homes[name.rpartition(".lora_")[0]] = layer in places and not (absorbs and layer.endswith(".kv_b_proj"))
    return homes


def _places(manager: Any) -> Iterator[tuple[Any, int, str]]:
    """(vLLM's module, which of its slices, the layer that this is). Not those that vLLM itself would cut in pieces."""
    for name, module in manager.modules.items():
        pieces = manager.packed_modules.get(name, [name])
        if len(pieces) == len(getattr(module, "lora_a_stacked", ())):
            yield from ((module, i, piece) for i, piece in enumerate(pieces))


def _module(model: Any, name: str) -> tuple[str, str]:
    """(vLLM's name of the layer, `lora_A` or `lora_B`) for a matrix."""
    from vllm.lora.utils import parse_fine_tuned_lora_name

    layer, is_first = parse_fine_tuned_lora_name(f"base_model.model.{name}", _renames(model))
    return layer, "lora_A" if is_first else "lora_B"


def _renames(model: Any) -> Any:
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    return None if mapper is None else mapper.get_rename_mapper()
