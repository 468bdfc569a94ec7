"""A copy of the critic that follows it slowly, so that what the critic chases does not run away from it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from alignkit.models.forward import Forward
from alignkit.models.weights import is_cut, whole
from alignkit.parallel.cut import set_whole
from alignkit.parallel.group import Group
from alignkit.parallel.trainer import check_names, store_tensors, stored_tensors, writers_of

FILE = "target"


class Target:
    """Polyak average of a critic: after each of its updates, copy <- (1 - rate) copy + rate critic.

    forward: of the copy, whose weights may be cut as the critic's are. rate: of each update, between 0 and 1; of a
    critic on the policy's layers, of each step.
    """

    def __init__(self, forward: Forward, *, rate: float, group: Group):
        # what the critic does not train is the policy's, of which a resumed run has other numbers here, read by nobody
        self._followed = {name: p for name, p in forward.model.named_parameters() if p.requires_grad}
        forward.model.requires_grad_(False).eval()
        self.forward, self.rate, self.group = forward, rate, group

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Moves the copy towards `model`, which has the same parameters; of what is cut each rank moves its shard."""
        for own, other in zip(self.forward.model.parameters(), model.parameters(), strict=True):
            _held(own).lerp_(_held(other), self.rate)

    def save(self, folder: Path) -> None:
        """Each rank writes its share of the parameters, whole; all ranks call it."""
        writers, tensors = writers_of(self._followed, self.group), {}
        for name, parameter in self._followed.items():
            with whole([parameter]):
                if writers[name] == self.group.rank:
                    tensors[name] = parameter.detach().to("cpu", copy=is_cut(parameter)).contiguous()
        of_rank = "" if self.group.world == 1 else f"-{self.group.rank}"
        store_tensors(tensors, folder / f"{FILE}{of_rank}.safetensors")

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote, by however many ranks; raises CheckpointError when it is of another model."""
        own, every = self._followed, dict(self.forward.model.named_parameters())
        # older checkpoints hold all weights, those that nothing trains too
        tensors = {name: one for name, one in stored_tensors(folder, FILE).items() if name in own or name not in every}
        check_names(tensors, own, folder)
        for name, parameter in own.items():
            set_whole(parameter, tensors[name]())


def _held(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter: its shard of one that is cut."""
    return parameter.ds_tensor if is_cut(parameter) else parameter  # ty: ignore[missing-attribute]
