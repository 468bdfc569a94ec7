"""What a rank does in test_loading.py: `python -m tests.distributed.loading FOLDER`, one process per rank.

Loads models as `cutter_of` has them loaded under ZeRO-3, and whole beside it, and trains both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from alignkit.errors import ContentError
from alignkit.models.forward import packed
from alignkit.models.forward import plain as plain_path
from alignkit.models.frozen import hold_frozen
from alignkit.models.load import load_policy
from alignkit.models.own_head import own_head
from alignkit.models.pretrained import load_pretrained
from alignkit.models.save import save_pretrained
from alignkit.models.tokenizer import character_tokenizer
from alignkit.models.weights import is_cut, whole
from alignkit.parallel.cut import Cutter, copied, set_whole
from alignkit.parallel.frozen import FrozenShards
from alignkit.parallel.group import Group, join_group
from alignkit.parallel.zero import ZeroTrainer
from alignkit.recipe.schema import Lora, Model
from alignkit.train.reference import fingerprint
from tests.distributed.ranks import fine
from tests.distributed.steps import OPTIMIZER, adapted_pair, updates
from tests.live_bytes import Live
from tests.model_families import FAMILIES, tiny
from tests.tiny import causal_lm, random_batch

SHARDING = fine(3)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "untied head": lambda: causal_lm("llama"),
    "tied head": lambda: causal_lm("llama_tied"),
    "fused experts": lambda: tiny(next(family for family in FAMILIES if family.name == "Mixtral")),
}
LORA = Lora(rank=4, alpha=8)
HELD = ("untied head", "tied head")


def large() -> nn.Module:
    """Of many layers, none of whose weights is more than a fortieth of it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def folder_of(name: str, folder: Path) -> Path:
    return folder / name.replace(" ", "-")


def whole_state(model: nn.Module) -> dict[str, torch.Tensor]:
    state = {}
    for name, parameter in model.named_parameters():
        with whole([parameter]):
            state[name] = parameter.detach().clone()
    return state


def same(cut: nn.Module, plain: nn.Module) -> dict[str, Any]:
    """What of two models is equal, and whether the first one's weights, but for LoRA's, are cut."""
    ours, theirs = whole_state(cut), dict(plain.named_parameters())
    return {
        "names": ours.keys() == theirs.keys(),
        "weights": all(torch.equal(weight, theirs[name]) for name, weight in ours.items()),
        "trained": [p.requires_grad for p in cut.parameters()] == [p.requires_grad for p in plain.parameters()],
        "fingerprint": fingerprint(cut) == fingerprint(plain),
        "cut": {is_cut(p) for name, p in cut.named_parameters() if ".lora_" not in name} == {True},
    }


def load(cutter: Cutter, path: Path, lora: Lora | None = None) -> nn.Module:
    def read(path: str, revision: str | None) -> tuple[Any, Any]:
        with cutter.reading():
            return load_pretrained(path, revision)

    return load_policy(Model(path=str(path), lora=lora), seed=3, read=read)[0]


def trained(model: nn.Module, group: Group, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return updates(ZeroTrainer(model, OPTIMIZER, group, SHARDING, dtype), group, range(3), dtype=dtype)


def trained_held(cutter: Cutter, path: Path, group: Group) -> dict[str, Any]:
    """What an adapter on a base in bfloat16, read in shards, comes to, and on one in float32, read whole."""
    cut, plain = load(cutter, path, LORA), load_policy(Model(path=str(path), lora=LORA), seed=3)[0]
    hold_frozen(cut, torch.bfloat16)
    return compared(trained(cut, group, torch.bfloat16), trained(plain, group, torch.bfloat16))


def compared(got: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    equal = all(torch.equal(got["weights"][name].float(), weight) for name, weight in wanted["weights"].items())
    return {"rows": got["rows"], "wanted": wanted["rows"], "trained equal": equal}


def loaded(cutter: Cutter, path: Path, group: Group, lora: Lora | None, *, train: bool) -> dict[str, Any]:
    model, plain = load(cutter, path, lora), load_policy(Model(path=str(path), lora=lora), seed=3)[0]
    found = {"same": same(model, plain), "copied": same(copied(model), plain)}
    if train:
        found |= compared(trained(model, group), trained(plain, group))
    return found


def peak(cutter: Cutter, path: Path) -> dict[str, int]:
    """Bytes that live at most while a model is loaded, whole and in shards, and those of all its weights."""
    found = {}
    for name, read in (("whole", lambda: load_pretrained(str(path))[0]), ("cut", lambda: load(cutter, path))):
        with Live() as live:
            model = read()
        found[name] = live.peak
        found["weights"] = sum(getattr(p, "ds_numel", p.numel()) * 4 for p in model.parameters())
    return found


def set_once(cutter: Cutter, path: Path, group: Group) -> float:
    """A weight that the first rank has set to 7 and the others to 5: what it is on this one."""
    parameter = next(load(cutter, path).parameters())
    shape = parameter.ds_shape  # ty: ignore[missing-attribute]
    set_whole(parameter, torch.full(shape, 7.0 if group.first else 5.0))
    with whole([parameter]):
        return float(parameter.detach().mean())


def said(cutter: Cutter, path: Path, dtype: torch.dtype, lora: Lora | None) -> dict[str, Any]:
    """Whether a frozen model says the same whole and in shards, and the most numbers of its shards whole meanwhile."""
    model, plain = load(cutter, path, lora), load_policy(Model(path=str(path), lora=lora), seed=3)[0]
    for one in (model, plain):
        hold_frozen(one.requires_grad_(False).eval(), dtype)
    parameters, most = list(model.parameters()), 0

    def count(*_: Any) -> None:
        nonlocal most
        most = max(most, sum(p.numel() for p in parameters if is_cut(p)))

    shards, batch, equal = FrozenShards(model), random_batch(), True
    for module in model.modules():
        module.register_forward_pre_hook(count)
    with torch.no_grad():
        for run in (packed, plain_path, own_head):
            options = {"dtype": dtype, "temperature": 1.0}
            equal &= torch.equal(shards.run(run, batch, **options).logprobs, run(plain, batch, **options).logprobs)
        wide = torch.equal(
            shards.run(packed, batch, dtype=torch.float32, temperature=1.0).logprobs,
            packed(plain, batch, dtype=torch.float32, temperature=1.0).logprobs,
        )
    left = sum(p.numel() for p in parameters if is_cut(p))
    held = {str(p.dtype) for p in parameters}
    return {"equal": equal, "in float32": wide, "most": most, "left": left, "held": held,
            "same print": fingerprint(model) == fingerprint(plain),
            "all": sum(p.numel() for p in plain.parameters())}  # fmt: skip


def cut_afterwards(cutter: Cutter) -> dict[str, Any]:
    """Whether a model that was whole, with adapters on layers of which peft reads its own matrices from outside, says
    in shards what it said, and numbers of it that are whole before and after."""
    model, batch, how = adapted_pair(), random_batch(), {"dtype": torch.float32, "temperature": 1.0}
    with torch.no_grad():
        wanted = [path(model.eval(), batch, **how).logprobs for path in (packed, plain_path)]
        shards = FrozenShards(cutter.cut(model))
        left = sum(p.numel() for p in model.parameters())
        got = [shards.run(path, batch, **how).logprobs for path in (packed, plain_path)]
    equal = all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
    return {"equal": equal, "left": (left, sum(p.numel() for p in model.parameters()))}


def broken(cutter: Cutter, path: Path) -> str:
    try:
        load(cutter, path)
    except ContentError as error:
        return str(error)
    return "nothing"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    group, tokenizer = join_group(), character_tokenizer("0123", context=64)
    if group.first:
        for name, make in MODELS.items():
            save_pretrained(make(), tokenizer, folder_of(name, folder), dtype=torch.bfloat16, shard_bytes=9000)
        save_pretrained(large(), tokenizer, folder / "large")
        save_pretrained(large(), tokenizer, folder / "narrow", dtype=torch.bfloat16)
        damaged = causal_lm("llama")
        with torch.no_grad():
            damaged.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
        save_pretrained(damaged, tokenizer, folder / "damaged")
    group.barrier()
    cutter = Cutter(SHARDING, group.world)
    results: dict[str, Any] = {}
    for name in MODELS:
        train = name != "fused experts"
        results[name] = loaded(cutter, folder_of(name, folder), group, None, train=train)
        results[f"{name}, lora"] = loaded(cutter, folder_of(name, folder), group, LORA, train=train)
    for name in HELD:
        results[f"{name}, base in bfloat16"] = trained_held(cutter, folder_of(name, folder), group)
    results |= {"peak": peak(cutter, folder / "large"), "peak of bfloat16": peak(cutter, folder / "narrow")}
    results |= {"set": set_once(cutter, folder / "large", group), "damaged": broken(cutter, folder / "damaged")}
    for name in MODELS:
        for dtype in (torch.float32, torch.bfloat16):
            for lora in (None, LORA):
                key = f"said by {name} in {dtype}{', lora' if lora else ''}"
                results[key] = said(cutter, folder_of(name, folder), dtype, lora)
    results["cut afterwards"] = cut_afterwards(cutter)
    results["said by large"] = said(cutter, folder / "large", torch.bfloat16, None)
    torch.save(results, folder / f"rank-{group.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
