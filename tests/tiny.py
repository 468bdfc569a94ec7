"""Tiny models, random packed batches, and stand-ins for trainers and ranks, shared by the tests of the core."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alignkit.parallel.group import Group
from alignkit.types.batch import FLOAT_COLUMNS, STATE_COLUMNS, Batch, pack
from alignkit.types.item import Item

VOCABULARY = 23
Shape = Sequence[tuple[int, Sequence[int]]]
"""(prompt length, completion lengths) of each group."""
SHAPE: Shape = ((5, (3, 7, 1, 4)), (2, (6, 2)), (9, (1,)), (4, (5, 5, 5)))


def causal_lm(kind: str = "llama", *, seed: int = 0) -> nn.Module:
    """A two-layer model with weights large enough that log-probs differ visibly. kinds: llama, llama_grouped (2 key
    heads for 4 query heads), llama_tied, qwen2 (biases), qwen3 (norms on queries and keys)."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4 if kind in ("llama", "llama_tied") else 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.15,
        "tie_word_embeddings": kind == "llama_tied",
        "attn_implementation": "sdpa",
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "qwen2":
            model: nn.Module = Qwen2ForCausalLM(Qwen2Config(**sizes))
        elif kind == "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=12))
        else:
            model = LlamaForCausalLM(LlamaConfig(**sizes))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
    return model.eval()


def random_items(shape: Shape = SHAPE, *, seed: int = 0, holes: bool = False) -> list[Item]:
    """Sequences of random tokens with rewards in quarters; with `holes` a third of the completion tokens (never all of
    a sequence) were not chosen by the policy, as with tool output."""
    rng = np.random.default_rng(seed)
    items = []
    for group, (prompt, lengths) in enumerate(shape):
        prompt_ids = rng.integers(3, VOCABULARY, prompt).tolist()
        for member, length in enumerate(lengths):
            action = rng.random(length) > 1 / 3
            action[rng.integers(length)] = True
            items.append(
                Item(
                    prompt_ids=prompt_ids,
                    completion_ids=rng.integers(3, VOCABULARY, length).tolist(),
                    action=action.tolist() if holes else None,
                    sampler_logprobs=(-3 * rng.random(length)).tolist(),
                    group=group,
                    member=member,
                    reward=float(rng.integers(5)) / 4,
                    channels={"length": length / 4, "direction/length": (-1.0) ** group},
                    policy_version=0,
                )
            )
    return items


def random_batch(shape: Shape = SHAPE, *, seed: int = 0, holes: bool = False, share_prefix: bool = True) -> Batch:
    return pack(random_items(shape, seed=seed, holes=holes), share_prefix=share_prefix)


Columns = Mapping[tuple[int, int], Mapping[str, Tensor]]
"""(group, member) -> column name -> one value per token of that sequence, prompt first, or the sequence's own value."""
SEQUENCE_COLUMNS = ("side", "targets")
ANNOTATED = FLOAT_COLUMNS + STATE_COLUMNS


def take_columns(batch: Batch) -> Columns:
    """The filled float columns by sequence, so that they can be put on the same sequences packed otherwise."""
    tokens = {name: column for name in ANNOTATED if (column := getattr(batch, name)) is not None}
    sequences = {name: column for name in SEQUENCE_COLUMNS if (column := getattr(batch, name)) is not None}
    return {
        key: {name: column[batch.token_index([index])] for name, column in tokens.items()}
        | {name: column[index] for name, column in sequences.items()}
        for index, key in enumerate(zip(batch.group.tolist(), batch.member.tolist(), strict=True))
    }


def put_columns(batch: Batch, columns: Columns) -> Batch:
    keys = list(zip(batch.group.tolist(), batch.member.tolist(), strict=True))
    filled: dict[str, Tensor] = {}
    for name, first in columns[keys[0]].items():
        if name in SEQUENCE_COLUMNS:
            filled[name] = torch.stack([columns[key][name] for key in keys])
            continue
        filled[name] = torch.zeros(batch.num_tokens, *first.shape[1:])
        for index, key in enumerate(keys):
            filled[name][batch.token_index([index])] = columns[key][name]
    return batch.replace(**filled)


def repack(batch: Batch, *, blocks: Sequence[int] | None = None, share_prefix: bool = True) -> Batch:
    """The same sequences with the same columns, packed anew: the blocks in another order, or every prompt repeated."""
    items: list[list[Item]] = []
    sequence = 0
    for block in batch.blocks:
        items.append([])
        for _ in block.lengths:
            own = batch.segment == sequence
            items[-1].append(
                Item(
                    prompt_ids=batch.tokens[block.start : block.start + block.prompt].tolist(),
                    completion_ids=batch.tokens[own].tolist(),
                    action=batch.action_mask[own].tolist(),
                    group=int(batch.group[sequence]),
                    member=int(batch.member[sequence]),
                    reward=float(batch.reward[sequence]),
                    truncated=bool(batch.truncated[sequence]),
                    policy_version=int(batch.policy_version[sequence]),
                    channels={name: float(values[sequence]) for name, values in batch.channels.items()},
                )
            )
            sequence += 1
    order = range(len(items)) if blocks is None else blocks
    packed = pack([item for index in order for item in items[index]], share_prefix=share_prefix)
    return put_columns(packed.replace(controls=batch.controls), take_columns(batch))


def noise(batch: Batch, scale: float, *, seed: int) -> Tensor:
    """Normal noise on action tokens, 0 elsewhere."""
    values = torch.randn(batch.num_tokens, generator=torch.Generator().manual_seed(seed)) * scale
    return torch.where(batch.action_mask, values, 0.0)


class Recorder:
    """A Trainer that adds up loss and gradient and never changes a weight."""

    def __init__(self, model: nn.Module):
        self.model, self.loss, self.gradient = model, 0.0, torch.zeros(0)

    def backward(self, loss: Tensor) -> None:
        self.loss += float(loss.detach())
        loss.backward()

    def step(self, lr: float) -> float:
        self.gradient = flat_gradient(self.model)
        return float(self.gradient.norm())


def flat_gradient(model: nn.Module) -> Tensor:
    """All gradients as one vector, cleared from the model."""
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
    model.zero_grad(set_to_none=True)
    return gradient


def relative(got: Tensor, wanted: Tensor) -> float:
    """|got - wanted| / |wanted| in the Euclidean norm."""
    return float((got - wanted).norm() / wanted.norm())


@dataclass
class Board:
    """Where threads that play ranks leave values for one another."""

    values: list[Any]
    barrier: threading.Barrier


@dataclass(frozen=True)
class ThreadGroup(Group):
    """Ranks as threads of this process."""

    board: Board = field(kw_only=True)

    def gather(self, value: Any) -> list[Any]:
        self.board.values[self.rank] = value
        self.board.barrier.wait(timeout=60)
        values = list(self.board.values)
        self.board.barrier.wait(timeout=60)
        return values

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self.gather(values)).sum(0)

    def from_first(self, value: Any) -> Any:
        return self.gather(value)[0]

    def barrier(self) -> None:
        self.board.barrier.wait(timeout=60)


def on_ranks(world: int, work: Callable[[Group, nn.Module], Any], model: nn.Module) -> list[Any]:
    """work(group, its own copy of the model) on every rank at once; the results in rank order."""
    board = Board([None] * world, threading.Barrier(world))
    results: list[Any] = [None] * world
    failures: list[BaseException] = []

    def play(rank: int, own: nn.Module) -> None:
        try:
            results[rank] = work(ThreadGroup(rank, world, board=board), own)
        except BaseException as error:
            failures.append(error)
            board.barrier.abort()

    threads = [threading.Thread(target=play, args=(rank, copy.deepcopy(model))) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((error for error in failures if not isinstance(error, threading.BrokenBarrierError)), failures[0])
    return results
