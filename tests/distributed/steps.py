"""What a rank does in test_zero_steps.py: `python -m tests.distributed.steps STAGE FOLDER`, one process per rank.

Every case is a function of a group and a way to make a trainer, so that the test can also run it in its own process,
with plain torch, and compare.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from alignkit.algorithms import sft
from alignkit.algorithms.preferences import tdpo
from alignkit.errors import CheckpointError, HealthError
from alignkit.models.forward import Forward, packed
from alignkit.models.frozen import hold_frozen, is_held
from alignkit.models.recompute import set_recompute
from alignkit.models.save import adapter_weights, save_pretrained, stored_weights
from alignkit.models.tokenizer import character_tokenizer
from alignkit.parallel.group import Group, join_group
from alignkit.parallel.single import SingleTrainer
from alignkit.parallel.trainer import Trainer
from alignkit.recipe.schema import Optimizer
from alignkit.train import checkpoint
from alignkit.train.state import State
from alignkit.train.step import Step
from tests.distributed.ranks import fine
from tests.model_families import FAMILIES, tiny
from tests.tiny import VOCABULARY, causal_lm, random_batch

MakeTrainer = Callable[[nn.Module, Optimizer], Trainer]
# Adam divides a gradient by its own size: with an epsilon far below the gradients, the last bit of one that nearly
# cancels decides its sign, and two right implementations part by a whole step. With this one an update is a smooth
# function of its gradient (a change of 1e-8 in a gradient moves a weight by at most lr 1e-2 x 1e-8 / 1e-3 = 1e-7).
OPTIMIZER = Optimizer(lr=1e-2, eps=1e-3, weight_decay=0.1, max_grad_norm=2.5)
BUDGETS = (14, 1000)  # tokens of a micro-batch: many rounds of both ranks, and one round in which a rank sits out


def lora(kind: str) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(causal_lm(kind), config)


def adapted_pair(**settings: Any) -> nn.Module:
    """LoRA on an embedding and on the head that is tied to it, and a norm that is trained whole."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = causal_lm("llama_tied")
    with torch.no_grad():
        base.get_input_embeddings().weight[0] = 0.1  # the pad token's row of zeros has no length for DoRA
    targets = ["q_proj", "embed_tokens", "lm_head"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, modules_to_save=["norm"], init_lora_weights=False,
                        task_type="CAUSAL_LM", **settings)  # fmt: skip
    return get_peft_model(base, config)


def recomputed(model: Callable[[], nn.Module]) -> nn.Module:
    """With activation checkpointing."""
    made = model()
    set_recompute(made, True)
    return made


def unpacked() -> nn.Module:
    """A model that the packed forward does not know: its layers do not hand on the layout."""
    return tiny(next(family for family in FAMILIES if family.name == "StableLM"))


def sliding_window() -> nn.Module:
    """Layers that see the last four tokens only."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        sliding_window=4,
    )
    return MistralForCausalLM(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "untied head": partial(causal_lm, "llama"),
    "tied head": partial(causal_lm, "llama_tied"),
    "biases and grouped heads": partial(causal_lm, "qwen2"),
    "lora": partial(lora, "qwen3"),
    "adapted pair": adapted_pair,
    "adapted pair by dora": partial(adapted_pair, use_dora=True),
    "sliding window": sliding_window,
    "unpacked": unpacked,
    "recomputed": partial(recomputed, partial(causal_lm, "qwen3")),
    "recomputed lora": partial(recomputed, partial(lora, "llama_tied")),
}
HELD = ("qwen3", "llama_tied")
RESUMED: dict[str, Callable[[], nn.Module]] = {
    "untied head": MODELS["untied head"],
    "lora": MODELS["lora"],
    "base in bfloat16": lambda: held("qwen2"),
}


def make_step(trainer: Trainer, group: Group, *, dtype: torch.dtype = torch.float32, budget: int = 1000) -> Step:
    forward = Forward(trainer.model, dtype, report=lambda message: None, run=trainer.run)
    return Step(
        algorithm=sft.ALGORITHM,
        config=sft.Config(type="sft"),
        trainer=trainer,
        forward=forward,
        group=group,
        temperature=1.0,
        max_tokens=budget,
    )


def updates(trainer: Trainer, group: Group, numbers: range, *, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Some optimizer steps, alternating between BUDGETS, each with log-probs and weights read in between."""
    rows = []
    for number in numbers:
        step = make_step(trainer, group, dtype=dtype, budget=BUDGETS[number % 2])
        batch = random_batch(seed=number)
        step.forward.verify(batch, temperature=1.0)
        logprobs = step.read(batch, step.forward, "logprobs")
        sequences = list(range(batch.num_sequences)) if number % 3 else [0, 1, 4]
        metrics, norm = step.update(batch, sequences, lr=1e-2 / (1 + number))
        rows.append((metrics["loss/policy"].value, norm, float(logprobs.sum() / batch.num_actions)))
    return {"rows": rows, "fast": step.forward.fast, "weights": whole_weights(trainer)}


def whole_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.weights()}


def train(make: MakeTrainer, group: Group, model: str) -> dict[str, Any]:
    return updates(make(MODELS[model](), OPTIMIZER), group, range(6))


def train_unclipped(make: MakeTrainer, group: Group) -> dict[str, Any]:
    optimizer = OPTIMIZER.model_copy(update={"max_grad_norm": None})
    return updates(make(MODELS["untied head"](), optimizer), group, range(3))


def train_bfloat16(make: MakeTrainer, group: Group) -> dict[str, Any]:
    trainer = make(MODELS["untied head"](), OPTIMIZER)
    result = updates(trainer, group, range(3), dtype=torch.bfloat16)
    return result | {"dtypes": {p.dtype for p in trainer.model.parameters()}}


def held(kind: str) -> nn.Module:
    """An adapter's model whose base is in bfloat16."""
    return hold_frozen(lora(kind), torch.bfloat16)


def train_held(make: MakeTrainer, group: Group, kind: str) -> dict[str, Any]:
    """On a base in bfloat16 and on the same in float32, and the dtypes of the first one's weights, or shards."""
    result = {}
    for name, model in {"float32": lora(kind), "held": held(kind)}.items():
        trainer = make(model, OPTIMIZER)
        result[name] = updates(trainer, group, range(3), dtype=torch.bfloat16)
        parts = [getattr(p, "ds_tensor", p) for p in model.parameters()]
        result[name] |= {"bytes": sum(part.nbytes for part in parts), "said": probe(trainer)}
    return result | {
        "frozen": {str(getattr(p, "ds_tensor", p).dtype) for p in model.parameters() if not p.requires_grad}
    }


def probe(trainer: Trainer) -> torch.Tensor:
    """Log-probs in float32 arithmetic."""
    with torch.no_grad():
        return trainer.run(packed, random_batch(), dtype=torch.float32, temperature=1.0).logprobs.clone()


def train_beside_reference(make: MakeTrainer, group: Group) -> dict[str, Any]:
    """TDPO, whose forward reads a second model for the divergence from it."""
    trainer = make(MODELS["untied head"](), OPTIMIZER)
    step = make_step(trainer, group, budget=BUDGETS[0])
    step = replace(step, algorithm=tdpo.ALGORITHM, config=tdpo.Config(type="tdpo"))
    step.forward.want, step.forward.reference = ("logprobs", "ref_kl"), causal_lm("llama_grouped", seed=1).eval()
    rows = []
    for number in range(3):
        batch = random_batch([(5, (3, 7)), (2, (6, 2)), (9, (1, 4))], seed=number)
        batch = batch.replace(side=1 - 2 * batch.member, ref_logprobs=batch.action_mask * -3.0)
        metrics, norm = step.update(batch, range(batch.num_sequences), lr=1e-2)
        rows.append((metrics["loss/policy"].value, norm, metrics["pairs/kl_chosen"].value))
    return {"rows": rows, "weights": whole_weights(trainer)}


def train_beside_itself(make: MakeTrainer, group: Group) -> dict[str, Any]:
    """TDPO with an adapter: what is read beside is the model itself, without it."""
    trainer = make(MODELS["recomputed lora"](), OPTIMIZER)
    step = make_step(trainer, group, budget=BUDGETS[0])
    step = replace(step, algorithm=tdpo.ALGORITHM, config=tdpo.Config(type="tdpo"))
    step.forward.want, step.forward.reference = ("logprobs", "ref_kl"), trainer.model
    off = replace(step.forward, adapter=False, want=("logprobs",))
    rows = []
    for number in range(3):
        batch = random_batch([(5, (3, 7)), (2, (6, 2)), (9, (1, 4))], seed=number)
        batch = batch.replace(side=1 - 2 * batch.member, ref_logprobs=step.read(batch, off, "logprobs"))
        metrics, norm = step.update(batch, range(batch.num_sequences), lr=1e-2)
        rows.append((metrics["loss/policy"].value, norm, float(batch.ref_logprobs.sum())))
    return {"rows": rows, "weights": whole_weights(trainer)}


def resume(make: MakeTrainer, group: Group, folder: Path, model: str) -> dict[str, Any]:
    """Six updates in one go, and three, a checkpoint, and three more in a new trainer of other weights."""
    folder = folder / f"checkpoint of {model}"
    if group.first:
        folder.mkdir(exist_ok=True)
    group.barrier()
    trainer = make(RESUMED[model](), OPTIMIZER)
    dtype = arithmetic(trainer.model)
    updates(trainer, group, range(3), dtype=dtype)
    trainer.save(folder)
    straight = updates(trainer, group, range(3, 6), dtype=dtype)
    fresh = RESUMED[model]()
    with torch.no_grad():
        for parameter in fresh.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    other = make(fresh, OPTIMIZER)
    other.load(folder)
    return {"straight": straight, "resumed": updates(other, group, range(3, 6), dtype=dtype)}


def arithmetic(model: nn.Module) -> torch.dtype:
    return torch.bfloat16 if is_held(model) else torch.float32


def full_disk(make: MakeTrainer, group: Group, folder: Path) -> dict[str, Any]:
    """Two checkpoints, of which the second finds no room on the last rank's disk, and an update after that."""
    root = folder / f"full disk of {group.world}"
    trainer = make(MODELS["untied head"](), OPTIMIZER)
    updates(trainer, group, range(1))
    checkpoint.save(root, State(done=1), recipe="{}", parts={"": trainer}, group=group, keep=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = None
    try:
        if group.rank == group.world - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        checkpoint.save(root, State(done=2), recipe="{}", parts={"": trainer}, group=group, keep=2)
    except CheckpointError as error:
        message = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    group.barrier()
    left = sorted(path.name for path in root.iterdir())
    return {"message": message, "left": left, **updates(trainer, group, range(1, 3))}


def survive_nan(make: MakeTrainer, group: Group) -> dict[str, Any]:
    """A step whose gradient is not finite on one rank only."""
    trainer = make(MODELS["untied head"](), OPTIMIZER)
    updates(trainer, group, range(1))
    before = whole_weights(trainer)
    trainer.model.train()
    outputs = trainer.run(packed, random_batch(), dtype=torch.float32, temperature=1.0)
    trainer.backward(outputs.logprobs.sum() * (float("nan") if group.first else 1.0))
    try:
        trainer.step(1e-2)
    except HealthError as error:
        return {"error": str(error), "before": before, "after": whole_weights(trainer)}
    return {"error": None}


def held_after_reading(make: MakeTrainer, group: Group) -> dict[str, int]:
    """Numbers of this rank's weights that are held whole after a step and after reading all weights."""
    trainer = make(MODELS["untied head"](), OPTIMIZER)
    updates(trainer, group, range(1))
    for _ in trainer.weights():
        pass
    parameters = list(trainer.model.parameters())
    return {"whole": sum(p.numel() for p in parameters), "all": sum(getattr(p, "ds_numel", 0) for p in parameters)}


def handed_over(make: MakeTrainer, group: Group) -> dict[str, Any]:
    """The weights at the end as read and as handed over, and the most numbers held whole while one is handed over."""
    trainer = make(MODELS["untied head"](), OPTIMIZER)
    updates(trainer, group, range(1))
    read, given, whole = whole_weights(trainer), {}, 0
    for name, weight in trainer.hand_over():
        given[name] = weight.clone()
        whole = max(whole, sum(p.numel() for p in trainer.model.parameters()))
    return {"read": read, "given": given, "whole": whole}


def saved(make: MakeTrainer, group: Group, folder: Path) -> dict[str, Any]:
    """Weights as all ranks read them and as the first one stores them, and the most numbers whole meanwhile."""
    folder = folder / f"saved by {group.world}"
    trainer = make(MODELS["lora"](), OPTIMIZER)
    updates(trainer, group, range(1))
    read, most = whole_weights(trainer), 0
    for _ in stored_weights(trainer.model, None):
        most = max(most, sum(p.numel() for p in trainer.model.parameters()))
    adapter = adapter_weights(trainer.model)
    save_pretrained(
        trainer.model, character_tokenizer("0123", context=32), folder, writes=group.first, shard_bytes=3000
    )
    group.barrier()
    files = {file.name: load_file(file) for file in folder.glob("model-*.safetensors")}
    stored = {name: tensor for file in files.values() for name, tensor in file.items()}
    beside = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {"read": read, "stored": stored, "files": len(files), "most": most, "adapter": adapter, "beside": beside}


def cases(folder: Path) -> dict[str, Callable[[MakeTrainer, Group], Any]]:
    return {
        **{f"train {model}": partial(train, model=model) for model in MODELS},
        "train unclipped": train_unclipped,
        "train bfloat16": train_bfloat16,
        "train beside reference": train_beside_reference,
        "train beside itself": train_beside_itself,
        **{f"train held {kind}": partial(train_held, kind=kind) for kind in HELD},
        **{f"resume {model}": partial(resume, folder=folder, model=model) for model in RESUMED},
        "full disk": partial(full_disk, folder=folder),
        "survive nan": survive_nan,
        "held after reading": held_after_reading,
        "handed over": handed_over,
        "saved": partial(saved, folder=folder),
    }


def main(stage: int, folder: Path) -> None:
    from alignkit.parallel.zero import ZeroTrainer

    torch.set_num_threads(1)
    group = join_group()

    def make(model: nn.Module, optimizer: Optimizer) -> Trainer:
        return ZeroTrainer(model, optimizer, group, fine(stage), arithmetic(model))

    def narrow(model: nn.Module, optimizer: Optimizer) -> Trainer:
        settings = fine(stage) | {"communication_data_type": "bf16"}
        return ZeroTrainer(model, optimizer, group, settings, torch.bfloat16)

    results = {name: case(make, group) for name, case in cases(folder).items()}
    results["sent in bfloat16"] = train_bfloat16(narrow, group)
    torch.save(results, folder / f"rank-{group.rank}.pt")


def alone(folder: Path, name: str) -> Any:
    """The same case in this process with plain torch."""
    return cases(folder)[name](SingleTrainer, Group())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
