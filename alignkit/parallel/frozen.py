"""A model that nothing trains, computed with while every rank holds its shards of it only."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from alignkit.models.adapted import base_model, is_adapted
from alignkit.models.weights import is_cut, whole
from alignkit.types.batch import Batch
from alignkit.types.outputs import Outputs

LAYER = re.compile(r"(.*\.)?\d+")  # of a list of layers


class FrozenShards:
    """Lets a model whose weights are cut be read: a layer is whole while it computes, the head's matrix throughout.

    What it says has the bits of the whole model: the same operations on the same numbers. All ranks compute together.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        cut = next(filter(is_cut, model.parameters()), None)
        if cut is not None:
            model.to(cut.device)  # what is not cut
        head = base_model(model).get_output_embeddings()
        self._head = [] if head is None else [p for p in head.parameters() if is_cut(p)]
        self._open: dict[nn.Module, AbstractContextManager[Any]] = {}
        taken = {id(parameter) for parameter in self._head}  # which tied embeddings are, too
        for name, module in model.named_modules():  # from outside in
            inner = bool(LAYER.fullmatch(name)) or is_adapted(module)  # peft reads its own matrices from outside
            mine = [p for p in module.parameters(recurse=inner) if is_cut(p) and id(p) not in taken]
            if mine:
                taken |= {id(parameter) for parameter in mine}
                self._gather_around(module, mine)

    def run(self, path: Callable[..., Outputs], batch: Batch, **options: Any) -> Outputs:
        """path(model, batch, **options), as a Trainer's `run`."""
        with whole(self._head):
            return path(self.model, batch, **options)

    def _gather_around(self, module: nn.Module, parameters: list[nn.Parameter]) -> None:
        def gather(*_: Any) -> None:
            self._open[module] = whole(parameters)
            self._open[module].__enter__()

        def release(*_: Any) -> None:
            self._open.pop(module).__exit__(None, None, None)

        module.register_forward_pre_hook(gather, prepend=True)
        module.register_forward_hook(release, always_call=True)
