"""What a rank does in test_writing.py: `python -m tests.distributed.writing STAGE FOLDER`, one process per rank.

Writes models that DeepSpeed has cut into the memory of an engine, and compares what lies there with the weights of one
process.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from alignkit.models.adapter_matrices import adapter_shapes
from alignkit.models.frozen import is_held
from alignkit.models.held_weights import held_weights
from alignkit.models.save import save_pretrained
from alignkit.models.tokenizer import character_tokenizer
from alignkit.models.weights import Part, named_policy_weights
from alignkit.parallel.cut import Cutter
from alignkit.parallel.group import Group, join_group
from alignkit.parallel.trainer import Trainer
from alignkit.parallel.writers import Writers, write_together
from alignkit.parallel.zero import ZeroTrainer
from alignkit.weights.pieces import checkpoint_shapes
from alignkit.weights.sender import Sender
from tests.distributed import loading, steps
from tests.distributed.ranks import fine
from tests.live_bytes import Live
from tests.model_families import FAMILIES, tiny
from tests.tiny import causal_lm

MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "untied head": partial(causal_lm, "llama"),
    "tied head": partial(causal_lm, "llama_tied"),
    "lora": partial(steps.lora, "qwen3"),
    "tied head, lora": partial(steps.lora, "llama_tied"),
    "lora on a base in bfloat16": partial(steps.held, "qwen3"),
    "adapted pair": steps.adapted_pair,
    "adapted pair by dora": partial(steps.adapted_pair, use_dora=True),
    "fused experts": lambda: tiny(next(family for family in FAMILIES if family.name == "Mixtral")),
}
BY_ITSELF = ("lora", "tied head, lora", "lora on a base in bfloat16")
"""Models whose adapter travels apart from its base, too."""
DTYPES = ("float32", "bfloat16")


def large() -> nn.Module:
    """Of four layers that are a quarter of it each, but for its words."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=8,
            num_key_value_heads=8, max_position_embeddings=64, tie_word_embeddings=True,
        )
    )  # fmt: skip


def sender_of(model: nn.Module, group: Group, dtype: str, *, apart: bool) -> Sender | None:
    shapes = checkpoint_shapes(model, part="base" if apart else "merged")
    matrices = adapter_shapes(model) if apart else {}
    return Sender(Path(), dtype, shapes=shapes, adapter=matrices, lends=False) if group.first else None


def written(trainer: Trainer, group: Group, make: Callable[[], nn.Module], dtype: str, *, apart: bool) -> list[str]:
    """On the first rank the weights that lie otherwise in the memory than one process has them."""
    parts: list[Part] = ["base", "adapter"] if apart else ["merged"]
    sender = sender_of(trainer.model, group, dtype, apart=apart)
    writers = Writers.open(group, sender.memory if sender else None)
    assert writers is not None
    writers.write(parts, trainer.pieces, version=1)
    twin, held = make(), dict(held_weights(trainer.model))
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(held[name])
    odd = []
    if sender is not None:
        lies = sender.memory.tensors("adapter") | sender.memory.tensors("base")
        wanted = dict(chain.from_iterable(named_policy_weights(twin, part=part) for part in parts))
        assert lies.keys() == wanted.keys()
        odd = [name for name, tensor in wanted.items() if not torch.equal(lies[name], tensor.to(lies[name].dtype))]
    writers.memory.close()
    return odd


def peaks(trainer: Trainer, group: Group) -> dict[str, int]:
    """Bytes that live at most while all weights are written in pieces and while they are gathered, and of them all."""
    sender = sender_of(trainer.model, group, "bfloat16", apart=False)
    writers = Writers.open(group, sender.memory if sender else None)
    assert writers is not None
    writers.write(["merged"], trainer.pieces, version=1)  # which maps the memory
    found = {"all": sum(getattr(p, "ds_numel", p.numel()) * 4 for p in trainer.model.parameters())}
    there = [getattr(p, "ds_tensor", p) for p in trainer.model.parameters()]
    there += writers.memory.tensors("base").values()
    for way, work in {
        "pieces": lambda: writers.write(["merged"], trainer.pieces, version=2),
        "gathered": lambda: deque(trainer.weights(), maxlen=0),
    }.items():
        with Live() as live:
            live.known |= {tensor.untyped_storage()._cdata for tensor in there}
            work()
        found[way] = live.peak
    return found


def begun(group: Group, folder: Path) -> bool:
    """Whether a model that was read in shards and has no trainer lies whole in the memory of an engine's start."""
    if group.first:
        save_pretrained(large(), character_tokenizer("0123", context=64), folder / "large")
    group.barrier()
    model = loading.load(Cutter(fine(3), group.world), folder / "large")
    sender = sender_of(model, group, "bfloat16", apart=False)
    assert write_together(model, group, sender.memory if sender else None, "merged")
    if sender is None:
        return True
    lies = sender.memory.tensors("base")
    return all(torch.equal(lies[name], weight.bfloat16()) for name, weight in named_policy_weights(large()))


def main(stage: int, folder: Path) -> None:
    torch.set_num_threads(1)
    group = join_group()
    results: dict[str, Any] = {}
    for name, make in MODELS.items():
        trainer = ZeroTrainer(make(), steps.OPTIMIZER, group, fine(stage))
        steps.updates(trainer, group, range(1), dtype=torch.bfloat16 if is_held(trainer.model) else torch.float32)
        for dtype in DTYPES:
            results[f"{name} in {dtype}"] = written(trainer, group, make, dtype, apart=False)
            if name in BY_ITSELF:
                results[f"{name} apart in {dtype}"] = written(trainer, group, make, dtype, apart=True)
    results["peaks"] = peaks(ZeroTrainer(large(), steps.OPTIMIZER, group, fine(stage)), group)
    if stage == 3:
        results["begun"] = begun(group, folder)
    torch.save(results, folder / f"rank-{group.rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
