"""Several processes: DeepSpeed ZeRO shards optimizer state, gradients (stage 2) and weights (stage 3).

Trained weights, gradients and optimizer state are float32, frozen ones what they are (`models/frozen.py`); bfloat16
arithmetic is done by autocast inside the forward, as in one process. What is gathered when, and what was measured:
docs/distributed.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.errors import HealthError, RecipeError
from alignkit.models.adapted import base_model
from alignkit.models.forward import plain
from alignkit.models.frozen import widen_last
from alignkit.models.weights import VALUE_HEAD, Part, is_cut, named_policy_weights, whole
from alignkit.parallel.cut import set_whole
from alignkit.parallel.deepspeed import import_deepspeed
from alignkit.parallel.group import Group
from alignkit.parallel.trainer import check_names, parameter_groups, store_tensors, stored_tensors, writers_of
from alignkit.recipe.schema import Optimizer
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from alignkit.weights.piece import Piece
from alignkit.weights.pieces import pieces

MOMENTS = ("exp_avg", "exp_avg_sq")
OURS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
        "managed_gradient_accumulation", "optimizer", "scheduler", "fp16", "bf16", "torch_autocast")  # fmt: skip


class ZeroTrainer:
    """A Trainer for several ranks. Steps may differ in their number of micro-batches, ranks within a step may not.

    sharding: the launch profile's DeepSpeed settings, which say only how to shard, and in what gradients are sent.
    dtype: of the recipe's arithmetic.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        group: Group,
        sharding: dict[str, Any],
        dtype: torch.dtype = torch.float32,
    ):
        self.model, self.group, self._dtype = model, group, dtype
        self.updates = 0
        settings = _settings(sharding, optimizer, group, dtype)
        deepspeed = import_deepspeed()
        adam = torch.optim.AdamW(
            parameter_groups(model, optimizer),
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            fused=True,
        )
        cut = next(filter(is_cut, model.parameters()), None)
        if cut is not None:
            model.to(cut.device)  # of such a model DeepSpeed leaves everything else where it is
        self.engine, *_ = deepspeed.initialize(model=_Reader(model), optimizer=adam, config=settings)
        widen_last(model)

    @property
    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def run(self, path: Callable[..., Outputs], batch: Batch, **options: Any) -> Outputs:
        return Outputs(**self.engine(path=path, batch=batch, options=options))

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss * self.group.world)  # DeepSpeed averages gradients over the ranks

    def step(self, lr: float) -> float:
        self.engine.optimizer.set_lr(lr)
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm())
        if not math.isfinite(norm):
            raise HealthError(
                "the gradient norm is not finite: no weight was changed; see events.jsonl for the last batch"
            )
        if self.updates == 0:
            _link_moments(self.engine.optimizer)
        self.updates += 1
        return norm

    def gradient_norm(self) -> float:
        raise RecipeError("train.watch_noise reads whole gradients, which several processes never hold: remove it")

    def weights(self, part: Part = "merged") -> Iterator[tuple[str, Tensor]]:
        return named_policy_weights(self.model, part=part)

    def pieces(self, part: Part = "merged") -> Iterator[Piece]:
        return pieces(self.model, rank=self.group.rank, world=self.group.world, part=part)

    def finish(self) -> None:
        self.engine.optimizer.state.clear()  # of ZeRO-3 something outlives destroy(): at least not Adam's moments
        if hasattr(self.engine.optimizer, "empty_partition_cache"):
            self.engine.optimizer.empty_partition_cache()  # a forward that took another path leaves some on their way

    def hand_over(self) -> Iterator[tuple[str, Tensor]]:
        self.finish()
        for name, p in self._trained.items():
            with whole([p]):
                yield name, p.detach()
        self.engine.destroy()

    def save(self, folder: Path) -> None:
        """Each rank writes its share of the parameters, whole, under the names and keys that SingleTrainer uses.

        All gather each of them; only the one who writes it copies it to the host.
        """
        weights, state = {}, {}
        writers = writers_of(self._trained, self.group)
        for name, p in self._trained.items():
            gathered = _read(p, with_moments=self.updates > 0)
            if writers[name] == self.group.rank:
                tensors = {key: tensor.detach().cpu().clone() for key, tensor in gathered.items()}
                weights[name] = tensors.pop("weight")
                state |= {f"{name}/{key}": tensor for key, tensor in tensors.items()}
                if self.updates:
                    state[f"{name}/step"] = torch.tensor(float(self.updates))
        store_tensors(weights, folder / f"model-{self.group.rank}.safetensors")
        store_tensors(state, folder / f"optimizer-{self.group.rank}.safetensors")

    def load(self, folder: Path) -> None:
        weights, state = stored_tensors(folder, "model"), stored_tensors(folder, "optimizer")
        check_names(weights, self._trained, folder)
        if state:
            self._create_optimizer_state()
        for name, p in self._trained.items():
            moments = {key: state[f"{name}/{key}"]() for key in MOMENTS if state}
            _write(p, weights[name](), moments)
        if state:
            self.updates = int(state[next(name for name in state if name.endswith("/step"))]())
            for values in self.engine.optimizer.state.values():
                values["step"].fill_(self.updates)

    def _create_optimizer_state(self) -> None:
        """DeepSpeed creates it in the first step: one with gradients of zero, at a learning rate of zero."""
        batch = pack([Item(prompt_ids=[0], completion_ids=[0])]).to(next(self.model.parameters()).device)
        want = ("logprobs", "values") if hasattr(base_model(self.model), VALUE_HEAD) else ("logprobs",)
        outputs = self.run(plain, batch, dtype=self._dtype, temperature=1.0, want=want)
        self.backward((outputs.logprobs.sum() + (outputs.values.sum() if "values" in want else 0.0)) * 0.0)
        self.step(lr=0.0)


class _Reader(nn.Module):
    """The policy together with the code that reads its weights, as one module for DeepSpeed to wrap.

    A weight that is read outside its own module's forward (by the chunked head) is noticed, gathered for this module
    from then on, in backward too, and its gradient is reduced like any other.
    """

    def __init__(self, policy: nn.Module):
        super().__init__()
        self.policy = policy

    def forward(self, *, path: Callable[..., Outputs], batch: Batch, options: dict[str, Any]) -> dict[str, Tensor]:
        outputs = path(self.policy, batch, **options)
        return {f.name: said for f in fields(outputs) if (said := getattr(outputs, f.name)) is not None}


def _settings(
    sharding: dict[str, Any], optimizer: Optimizer, group: Group, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """DeepSpeed's whole configuration; raises RecipeError when the profile sets what the recipe decides."""
    taken = [key for key in OURS if key in sharding]
    stage = sharding.get("zero_optimization", {}).get("stage")
    if taken:
        raise RecipeError(f"launch profile: its DeepSpeed file sets {', '.join(taken)}: remove it, the recipe decides")
    if stage not in (1, 2, 3):
        raise RecipeError(f"launch profile: zero_optimization.stage of its DeepSpeed file is {stage}, wanted 1, 2 or 3")
    sent = sharding.get("communication_data_type", "fp32")
    if sent != "fp32" and (sent, dtype) != ("bf16", torch.bfloat16):
        raise RecipeError(
            f"launch profile: communication_data_type of its DeepSpeed file is {sent}, which rounds the gradients of "
            f"model.dtype {str(dtype).removeprefix('torch.')}: bf16 goes with bfloat16, fp32 (or nothing) with each"
        )
    return {
        **sharding,
        "train_batch_size": group.world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # each engine.step() ends an accumulation, however long it was
        "gradient_clipping": optimizer.max_grad_norm or 0.0,
        "zero_force_ds_cpu_optimizer": False,
    }


def _read(parameter: nn.Parameter, *, with_moments: bool) -> dict[str, Tensor]:
    """The whole weight and Adam moments of a parameter, where it is computed with; all ranks call it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    tensors = {"weight": safe_get_full_fp32_param(parameter)}
    if with_moments:
        tensors |= {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
    return tensors


def _write(parameter: nn.Parameter, weight: Tensor, moments: dict[str, Tensor]) -> None:
    """Sets the weight (what is computed with, and the optimizer's copy) and Adam moments; all ranks call it."""
    from deepspeed import utils

    set_whole(parameter, weight)
    tensors = {key: tensor.to(parameter.device) for key, tensor in {"weight": weight, **moments}.items()}
    mine: Tensor | None = getattr(parameter, "ds_tensor", None)  # ZeRO-3: this rank's shard
    if mine is not None:
        shards = {key: _shard(tensor, like=mine) for key, tensor in tensors.items()}
        utils.safe_set_local_fp32_param(parameter, shards.pop("weight"))
        for key, shard in shards.items():
            utils.safe_set_local_optimizer_state(parameter, shard, key)
    else:
        utils.safe_set_full_fp32_param(parameter, tensors.pop("weight"))
        for key, tensor in tensors.items():
            utils.safe_set_full_optimizer_state(parameter, tensor, key)


def _link_moments(zero: Any) -> None:
    """Lets every parameter find its Adam moments after the first step.

    ZeRO-2 of DeepSpeed 0.19.8 does this when the first of several parameter groups has been updated, and then never
    again: the parameters of the other groups are left without.
    """
    if hasattr(zero, "_hp_optimizer_states_linked"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _shard(whole: Tensor, *, like: Tensor) -> Tensor:
    """This rank's shard of a ZeRO-3 parameter: an equal part of its flattened values, padded with zeros at the end."""
    rank, world, size = torch.distributed.get_rank(), torch.distributed.get_world_size(), like.numel()
    padded = nn.functional.pad(whole.flatten(), (0, size * world - whole.numel()))
    return padded[rank * size : (rank + 1) * size]
