"""How far the packed path is from plain float32, on any device: log-probs and gradients of a small random model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from alignkit.models.forward import Forward
from alignkit.run.check.row import Row
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.seeds import child

VOCABULARY, CONTEXT = 1024, 512
Groups = Sequence[tuple[int, Sequence[int]]]
GROUPS: Groups = ((97, (130, 40, 8)), (33, (64, 65)), (200, (1, 128, 300)), (5, (90,)))  # tokens: prompt, completions
ROUNDING = 2.0  # packed arithmetic may be this much further from plain float32 than plain arithmetic of its dtype is
EXACT = 1e-4  # and in float32, where there is nothing to compare with, this far: mean |log-prob|, share of the gradient


def random_model(device: str) -> nn.Module:
    """A Qwen3 of four layers with grouped heads of 64, whose log-probs are far from uniform; float32."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        initializer_range=0.08,
        tie_word_embeddings=True,
        pad_token_id=0,
        attn_implementation="sdpa",  # ty: ignore[unknown-argument]  PreTrainedConfig takes it as a keyword
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child(0, "trial", "model") % 2**63)
        return Qwen3ForCausalLM(config).to(device)


def random_batch(groups: Groups) -> Batch:
    """Groups with shared prompts, of random tokens."""
    random = np.random.Generator(np.random.Philox(key=child(0, "trial", "batch")))

    def draw(length: int) -> list[int]:
        return random.integers(VOCABULARY, size=length).tolist()

    items = []
    for group, (prompt, lengths) in enumerate(groups):
        ids = draw(prompt)
        items += [Item(prompt_ids=ids, completion_ids=draw(length), group=group) for length in lengths]
    return pack(items)


def distance(model: nn.Module, batch: Batch, dtype: torch.dtype) -> Row:
    """How far packed and plain arithmetic in `dtype` are from plain float32: log-probs and gradients."""
    exact = _measured(model, batch, torch.float32, fast=False)
    fast = _apart(_measured(model, batch, dtype, fast=True), exact, batch)
    book = _apart(_measured(model, batch, dtype, fast=False), exact, batch)
    right = all(ours <= max(ROUNDING * theirs, EXACT) for ours, theirs in zip(fast, book, strict=True))
    name = str(dtype).removeprefix("torch.")
    return Row(
        name=f"packed against plain, {name}",
        value=f"log-probs {fast[0]:.1e} from plain float32 (plain {name}: {book[0]:.1e}), gradient {fast[1]:.1e} "
        f"({book[1]:.1e})",
        level="ok" if right else "wrong",
        numbers={"logprobs": fast[0], "gradient": fast[1], "plain_logprobs": book[0], "plain_gradient": book[1]},
    )


def _measured(model: nn.Module, batch: Batch, dtype: torch.dtype, *, fast: bool) -> tuple[Tensor, Tensor]:
    """Log-probs, and the gradient of their sum with alternating signs."""
    model.zero_grad(set_to_none=True)
    logprobs = Forward(model=model, dtype=dtype, fast=fast)(batch, temperature=1.0).logprobs
    signs = 1.0 - 2.0 * (torch.arange(len(logprobs), device=logprobs.device) % 2)
    (logprobs * signs)[batch.action_mask].sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return logprobs.detach(), gradient


def _apart(got: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], batch: Batch) -> tuple[float, float]:
    logprobs = float((got[0] - exact[0])[batch.action_mask].abs().mean())
    return logprobs, float((got[1] - exact[1]).norm() / exact[1].norm())
