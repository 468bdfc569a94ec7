"""AdamW whose two moments are kept in bfloat16: half the bytes of an optimizer's state, by the same equation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from alignkit.types.seeds import child

PIECE = 2**22
"""Numbers that are computed at once, in float32: what an update takes beside its state does not grow with a matrix."""


class RoundedAdamW(torch.optim.Optimizer):
    """Loshchilov & Hutter, arXiv 1711.05101, algorithm 2, with the arithmetic of torch.optim.AdamW in float32:

        m = b1 m + (1 - b1) g     v = b2 v + (1 - b2) g^2
        w = (1 - lr d) w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

    Only then m and v are rounded to bfloat16, up or down by chance so that the mean is what was computed: stochastic
    rounding (Gupta et al., arXiv 1502.02551, section 2; in bfloat16 training Zamirai et al., arXiv 2010.06192). To the
    nearest, a step of v smaller than 2^-9 of it would be lost, and with b2 = 0.999 v would never fall again. The chance
    is named by step and parameter: the same state and gradients give the same bits.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """closure: of torch's protocol, and not called."""
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                number += 1
                if parameter.grad is not None:
                    _update(parameter, self.state[parameter], group, number)


def _update(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any], number: int) -> None:
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state |= {key: torch.zeros_like(parameter, dtype=torch.bfloat16) for key in ("exp_avg", "exp_avg_sq")}
    state["step"] += 1
    step, (first, second) = float(state["step"]), group["betas"]
    generator = torch.Generator(parameter.device).manual_seed(child(0, "moments", number, int(step)))
    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
    assert parameter.grad is not None
    tensors = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
    flat = [tensor.view(-1).split(PIECE) for tensor in tensors]
    for weight, gradient, exp_avg, exp_avg_sq in zip(*flat, strict=True):
        mean = exp_avg.float().lerp_(gradient, 1.0 - first)
        square = exp_avg_sq.float().mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        scale = (square / (1.0 - second**step)).sqrt_().add_(group["eps"])
        weight.addcdiv_(mean, scale, value=-group["lr"] / (1.0 - first**step))
        exp_avg.copy_(_rounded(mean, generator))
        exp_avg_sq.copy_(_rounded(square, generator))


def _rounded(values: Tensor, generator: torch.Generator) -> Tensor:
    """Finite float32 values, each one of its two neighbours in bfloat16, with the mean that it has itself.

    bfloat16 is the upper half of a float32: a random lower half is added, and what it carries over is kept.
    """
    bits = values.view(torch.int32)
    chance = torch.empty_like(bits).random_(0, 2**16, generator=generator)
    return (bits + chance).bitwise_and_(-(2**16)).view(torch.float32)
