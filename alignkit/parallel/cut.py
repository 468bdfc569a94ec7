"""Cuts weights into the shards of ZeRO-3 before there is a trainer, so that no rank ever holds a model whole."""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from alignkit.models.weights import is_cut, whole
from alignkit.parallel.deepspeed import import_deepspeed
from alignkit.recipe.lookup.secrets import in_environment


class Cutter:
    """Makes this rank's shards. All ranks do all of it in the same order, or they wait for one another for ever.

    sharding: the launch profile's DeepSpeed settings, of stage 3, as the trainer gets them. world: number of ranks.
    """

    def __init__(self, sharding: dict[str, Any], world: int):
        batch = {"train_batch_size": world, "train_micro_batch_size_per_gpu": 1}  # which DeepSpeed wants to know
        self._init = import_deepspeed().zero.Init(module=nn.Module(), config_dict_or_path=sharding | batch)

    def cut(self, model: nn.Module) -> nn.Module:
        """The model, of which this rank keeps its shards; what counts is the first rank's."""
        for parameter in model.parameters():
            self._cut(parameter)
        return model

    def _cut(self, parameter: nn.Parameter) -> None:
        if is_cut(parameter):
            return
        if parameter.untyped_storage().nbytes() > parameter.nbytes:  # a view of the file, not to be written to
            parameter.data = parameter.data.clone()
        self._init._convert_to_zero_parameters([parameter])

    @contextmanager
    def reading(self) -> Generator[None]:
        """Within it a weight that transformers has read is cut before it reads the next one."""

        def cut(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            if parameter is not None and not parameter.is_meta:
                self._cut(parameter)

        hook = register_module_parameter_registration_hook(cut)
        try:
            with in_environment({"HF_DEACTIVATE_ASYNC_LOAD": "1"}):  # else its threads read ahead
                yield
        finally:
            hook.remove()


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of a model; of what is cut one parameter is whole at a time, and all ranks call it."""
    memo: dict[int, Any] = {}
    for parameter in filter(is_cut, model.parameters()):
        with whole([parameter]):
            own = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
        parameter.convert_to_zero_parameters(param_list=[own])  # ty: ignore[missing-attribute]
        memo[id(parameter)] = own
    return copy.deepcopy(model, memo)


def set_whole(parameter: nn.Parameter, weight: torch.Tensor) -> None:
    """Sets the numbers of a parameter, cut or not, from a whole weight; all ranks call it."""
    with whole([parameter], write=True), torch.no_grad():
        parameter.copy_(weight)
