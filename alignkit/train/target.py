"""A copy of the critic that follows it slowly, so that what the critic chases does not run away from it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from alignkit.models.forward import Forward
from alignkit.parallel.trainer import check_names, store_tensors, stored_tensors

FILE = "target"


class Target:
    """Polyak average of a critic: after each step's updates, copy <- (1 - rate) copy + rate critic."""

    def __init__(self, critic: Forward, *, rate: float):
        # what the critic does not train is the policy's, of which a resumed run has other numbers here, read by nobody
        self.trained = {name for name, p in critic.model.named_parameters() if p.requires_grad}
        model = copy.deepcopy(critic.model).requires_grad_(False).eval()
        self.rate = rate
        self.forward = Forward(model, critic.dtype, fast=critic.fast, report=critic.report, want=("values",))

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Moves the copy towards `model`, which has the same parameters."""
        for own, other in zip(self.forward.model.parameters(), model.parameters(), strict=True):
            own.lerp_(other, self.rate)

    def save(self, folder: Path) -> None:
        tensors = {name: p.detach().contiguous() for name, p in self._followed().items()}
        store_tensors(tensors, folder / f"{FILE}.safetensors")

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote; raises CheckpointError when it is of another model."""
        own, every = self._followed(), dict(self.forward.model.named_parameters())
        # older checkpoints hold all weights, those that nothing trains too
        tensors = {name: one for name, one in stored_tensors(folder, FILE).items() if name in own or name not in every}
        check_names(tensors, own, folder)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name]())

    def _followed(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.forward.model.named_parameters() if name in self.trained}
