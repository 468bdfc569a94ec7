"""One process, plain torch: float32 weights, AdamW with moments of either dtype, global-norm clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignkit.errors import HealthError
from alignkit.models.weights import Part, named_policy_weights
from alignkit.parallel.rounded_adamw import RoundedAdamW
from alignkit.parallel.trainer import ADAM_STATE, check_names, parameter_groups, store_tensors, stored_tensors
from alignkit.types.batch import Batch
from alignkit.types.outputs import Outputs
from alignkit.weights.piece import Piece
from alignkit.weights.pieces import pieces

if TYPE_CHECKING:
    from alignkit.recipe.schema import Optimizer


class SingleTrainer:
    """A Trainer for a world of one. Weights stay where `model` is; the learning rate is given at each step."""

    def __init__(self, model: nn.Module, optimizer: Optimizer):
        self.model = model
        self.max_grad_norm = optimizer.max_grad_norm or math.inf
        adamw = RoundedAdamW if optimizer.moments == "bfloat16" else partial(torch.optim.AdamW, fused=True)
        self.optimizer = adamw(
            parameter_groups(model, optimizer), lr=optimizer.lr, betas=optimizer.betas, eps=optimizer.eps
        )

    @property
    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def run(self, path: Callable[..., Outputs], batch: Batch, **options: Any) -> Outputs:
        return path(self.model, batch, **options)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def gradient_norm(self) -> float:
        """Norm of the gradient as added up so far."""
        return float(self._norm())

    def _norm(self) -> Tensor:
        gradients = [p.grad for p in self._trained.values() if p.grad is not None]
        if gradients[0].device.type == "cpu":
            # summed in float64: on a CPU torch's float32 norm of 28 million numbers was seen to be 0.1% too small
            norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
        else:  # a GPU adds up in trees, and would copy each gradient to float64 first
            norms = [norm.double() for norm in torch._foreach_norm(gradients)]
        return torch.linalg.vector_norm(torch.stack(norms))

    def step(self, lr: float) -> float:
        total = self._norm()
        norm = float(total)
        if not math.isfinite(norm):
            raise HealthError(
                f"the gradient norm is {norm}: no weight was changed; see events.jsonl for the last batch"
            )
        nn.utils.clip_grads_with_norm_(self._trained.values(), self.max_grad_norm, total)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def weights(self, part: Part = "merged") -> Iterator[tuple[str, Tensor]]:
        return named_policy_weights(self.model, part=part)

    def pieces(self, part: Part = "merged") -> Iterator[Piece]:
        return pieces(self.model, rank=0, world=1, part=part)

    def finish(self) -> None:
        self.optimizer.state.clear()

    def hand_over(self) -> Iterator[tuple[str, Tensor]]:
        self.finish()
        return iter([(name, p.detach()) for name, p in self._trained.items()])

    def save(self, folder: Path) -> None:
        store_tensors(
            {name: p.detach().contiguous() for name, p in self._trained.items()}, folder / "model.safetensors"
        )
        state = {
            f"{name}/{key}": value
            for name, p in self._trained.items()
            for key, value in self.optimizer.state.get(p, {}).items()
        }
        store_tensors(state, folder / "optimizer.safetensors")

    def load(self, folder: Path) -> None:
        weights, state = stored_tensors(folder, "model"), stored_tensors(folder, "optimizer")
        check_names(weights, self._trained, folder)
        with torch.no_grad():
            for name, p in self._trained.items():
                p.copy_(weights[name]())
                if state:
                    self.optimizer.state[p] = {key: state[f"{name}/{key}"]().to(p.device) for key in ADAM_STATE}
