"""Saved is trained: the final model is read again as anybody would read it, and compared with the one in memory."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from alignkit.errors import CheckpointError
from alignkit.models.adapted import base_model
from alignkit.models.critic import add_value_head
from alignkit.models.encoder import Encoder
from alignkit.models.forward import Want, plain
from alignkit.models.frozen import hold_frozen, is_held
from alignkit.models.load import load_policy
from alignkit.models.lora import quiet
from alignkit.models.own_head import own_head
from alignkit.models.pretrained import load_pretrained
from alignkit.models.save import ADAPTER, STEERING, save_pretrained
from alignkit.models.steering import Steering
from alignkit.models.weights import VALUE_HEAD, merged_weights, policy_shapes, whole
from alignkit.parallel.cut import Cutter
from alignkit.parallel.frozen import FrozenShards
from alignkit.parallel.group import Group
from alignkit.parallel.trainer import Trainer
from alignkit.recipe.schema import Recipe
from alignkit.rewards.learned.reward_model import BESIDE, save_reward_model
from alignkit.run.train.build import Policy, algorithm_of, beside, build_reference, reading_of
from alignkit.run.train.loader import cutter_of, is_whole
from alignkit.types.batch import pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from alignkit.types.seeds import child

TOLERANCE = 1e-3
"""Largest allowed mean |difference| on the probe, relative to the mean size of its numbers where that is beyond 1. All
is float32: sums in another order were seen to differ by 1e-6, a head that was not saved by 8."""
CURE = "do not use it: the trained weights are in the last checkpoint; go on from there with --resume"


def save_final(
    recipe: Recipe,
    policy: Policy,
    trainer: Trainer,
    folder: Path,
    probe: Sequence[Sequence[int]],
    group: Group,
    *,
    steering: Steering | None = None,
) -> dict[str, float]:
    """Writes the trained model as an ordinary transformers folder; a reward model with its head and how it is read.

    steering: goes into a folder of its own within. trainer: of the policy, which is read where it lies; the first rank
    writes, all call this. The folder has its name only once `check_saved`, whose result this returns, has found it
    right. Raises CheckpointError when it is not, or the disk refuses it.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    if group.first:
        shutil.rmtree(unfinished, ignore_errors=True)
    problem = None
    try:
        _write(recipe, policy, unfinished, writes=group.first)
        if steering is not None:
            dtype = getattr(torch, recipe.model.dtype)
            steering.save(policy.tokenizer, unfinished / STEERING, dtype=dtype, writes=group.first)
    except (OSError, SafetensorError) as error:
        cure = "free some space; --resume then writes it from the last checkpoint"
        problem = f"{unfinished}: the final model could not be written ({error}); {cure}"
    if problem := group.from_first(problem):
        raise CheckpointError(problem)
    gaps = check_saved(recipe, policy, trainer, unfinished, probe, group)
    if group.first:
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return gaps


def _write(recipe: Recipe, policy: Policy, folder: Path, *, writes: bool) -> None:
    stage = recipe.stages[-1]
    if algorithm_of(recipe, stage)[0].trains_reward:
        reading = reading_of(recipe, stage)
        save_reward_model(policy.model, policy.tokenizer, folder, reading, writes=writes)
        if reading.reference == BESIDE and writes:
            save_pretrained(build_reference(recipe, None), policy.tokenizer, folder / BESIDE)
    else:
        dtype = getattr(torch, recipe.model.dtype)
        save_pretrained(policy.model, policy.tokenizer, folder, dtype=dtype, writes=writes)


def check_saved(
    recipe: Recipe, policy: Policy, trainer: Trainer, folder: Path, probe: Sequence[Sequence[int]], group: Group
) -> dict[str, float]:
    """Reads `folder` by plain transformers, and its adapter by peft on the base model; returns how far each is from
    `policy` on the probe, in nats a token (of a reward model: in its numbers).

    final: the folder as it is, rounded to the recipe's dtype. merged: the same before rounding, which is compared
    weight by weight. adapter: base and adapter. Raises CheckpointError that names both numbers where merged or adapter
    differ by more than rounding, or a stored weight is not the rounded one. Under ZeRO-3 every rank reads its shards of
    the folder; else, and of a model that `is_whole`, the first rank reads it and the others help to compare.
    """
    trained: Any = policy.model.eval()
    want: Want = "values" if hasattr(base_model(trained), VALUE_HEAD) else "logprobs"
    if group.world == 1:
        trained = trained.cpu()  # both sides by the same arithmetic
    expected = _said(trained, probe, want, trainer.run)
    trainer.finish()
    cutter = None if is_whole(recipe.model, beside(recipe)) else cutter_of(group)
    if cutter is None and not group.first:
        deque(merged_weights(trained), maxlen=0)
        return {}
    saved = _with_head(_read(str(folder), trained, cutter), folder, want)
    run = FrozenShards(saved).run
    gaps = {"final": float((_said(saved, probe, want, run) - expected).abs().mean())}
    _restore(saved, trained, folder, getattr(torch, recipe.model.dtype))
    gaps["merged"] = _compare(_said(saved, probe, want, run), expected, folder, "the merged model")
    del saved, run
    if hasattr(trained, "peft_config"):
        adapted = _with_head(_read_adapter(recipe, folder / ADAPTER, trained, cutter), folder, want)
        said = _said(adapted, probe, want, FrozenShards(adapted).run)
        gaps["adapter"] = _compare(said, expected, folder / ADAPTER, "the adapter on its base")
    return gaps


@torch.no_grad()
def _said(model: nn.Module, probe: Sequence[Sequence[int]], want: Want, run: Callable[..., Outputs]) -> Tensor:
    """run: what reads the model, whose weights may be cut."""
    items = [Item(prompt_ids=ids[:1], completion_ids=ids[1:], group=i) for i, ids in enumerate(probe)]
    batch = pack(items).to(next(model.parameters()).device)
    path = plain if want == "values" else own_head
    outputs = run(path, batch, dtype=torch.float32, temperature=1.0, want=(want,))
    return getattr(outputs, want)[batch.action_mask].cpu()


def _read(folder: str, trained: Any, cutter: Cutter | None) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM

    kind = AutoModel if isinstance(base_model(trained), Encoder) else AutoModelForCausalLM
    with nullcontext() if cutter is None else cutter.reading():
        model: Any = kind.from_pretrained(folder, dtype=torch.float32).eval()
    return Encoder(model) if isinstance(base_model(trained), Encoder) else model


def _read_adapter(recipe: Recipe, folder: Path, trained: Any, cutter: Cutter | None) -> Any:
    """The adapter on its base by peft alone; only a base that was built from nothing is built again."""
    from peft import PeftConfig, PeftModel

    named = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    if named and recipe.model.quantization:
        base = load_pretrained(named, None, recipe.model.quantization)[0].cpu()
    elif named:
        base = _read(named, trained, cutter)
    else:
        section = recipe.model.model_copy(update={"lora": None})
        base, _ = load_policy(section, seed=child(recipe.seed, "model"), beside=beside(recipe))
    inner = base.encoder if isinstance(base, Encoder) else base
    if is_held(trained):  # of a base saved in more digits the trainer read as many as the recipe's dtype has
        hold_frozen(inner.requires_grad_(False), getattr(torch, recipe.model.dtype))
    with quiet():
        adapted: Any = PeftModel.from_pretrained(inner, str(folder)).eval()
    return Encoder(adapted) if isinstance(base, Encoder) else adapted


def _with_head(model: Any, folder: Path, want: Want) -> Any:
    """A reward model's numbers come from the head that lies beside its weights."""
    if want == "values":
        head = load_file(folder / f"{VALUE_HEAD}.safetensors")
        add_value_head(model, len(head["bias"]), seed=0)
        getattr(base_model(model), VALUE_HEAD).load_state_dict(head)
    return model


def _restore(saved: Any, trained: Any, folder: Path, dtype: torch.dtype) -> None:
    """Compares each stored weight with the trained one, rounded alike, and puts the unrounded one in its place."""
    held = {name: p for name, p in saved.named_parameters() if not name.startswith(f"{VALUE_HEAD}.")}
    merged = merged_weights(trained)
    try:
        if odd := sorted(held.keys() ^ policy_shapes(trained).keys()):
            raise CheckpointError(
                f"{folder}: {len(odd)} weights are only saved or only trained, first {odd[0]}; {CURE}"
            )
        for name, weight in merged:
            with whole([held[name]], write=True):
                rounded, stored = weight.to(held[name].device).to(dtype).float(), held[name].detach()
                if not torch.equal(stored, rounded):
                    gap = (stored - rounded).abs().max()
                    raise CheckpointError(f"{folder}: {name} is up to {gap:.3g} from the trained weight; {CURE}")
                stored.copy_(weight)
    finally:
        deque(merged, maxlen=0)  # the other ranks gather with this one


def _compare(got: Tensor, expected: Tensor, folder: Path, what: str) -> float:
    gap = float((got - expected).abs().mean())
    if not gap <= TOLERANCE * max(1.0, float(expected.abs().mean())):
        numbers = f"{what} says {got.mean():.4g} on the probe where the trainer says {expected.mean():.4g}"
        raise CheckpointError(f"{folder}: {numbers} (mean difference {gap:.3g}, allowed {TOLERANCE:g}); {CURE}")
    return gap
