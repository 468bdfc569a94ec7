"""`alignkit doctor --gpu`: one packed forward and backward against plain, one engine, one weight sync with proof.

Small enough for any card and any model-free machine: a random model of four layers, two minutes with an engine's start.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from alignkit.engines.engine import Engine
from alignkit.errors import AlignkitError, first_line
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.schema import Optimizer
from alignkit.run.check.distance import CONTEXT, GROUPS, VOCABULARY, Groups, distance, random_batch, random_model
from alignkit.run.check.row import Row
from alignkit.run.check.timed import timed
from alignkit.run.check.where import where
from alignkit.train.sync import Sync
from alignkit.types.rollout import Request
from alignkit.types.seeds import child

NEW_TOKENS, REQUESTS = 32, 8
CANARY = 0.15  # as a recipe's default
FAILURES = (AlignkitError, RuntimeError, ValueError, ImportError, OSError, TypeError, AttributeError)

StartEngine = Callable[[Path, Path], Engine]
"""(model folder, log file) -> a running engine with these weights."""


def trial(device: str, start_engine: StartEngine | None = None, groups: Groups = GROUPS) -> list[Row]:
    """All rows; a trial that fails is a row that says why, and the others go on. start_engine: None is vLLM."""
    rows = where(device)
    model = random_model(device)
    batch = random_batch(groups).to(torch.device(device))
    for name, work in (
        ("packed against plain", lambda: [distance(model, batch, dtype) for dtype in (torch.bfloat16, torch.float32)]),
        ("engine and sync", lambda: engine_rows(model, device, start_engine or start_vllm)),
    ):
        try:
            rows += work()
        except FAILURES as error:
            rows.append(Row(name=name, value=f"{type(error).__name__}: {first_line(error)}", level="wrong"))
    return rows


def engine_rows(model: nn.Module, device: str, start_engine: StartEngine) -> list[Row]:
    """Starts an engine on the model, samples, moves the weights, and syncs with read-back and canary."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "model")
        model.save_pretrained(saved)  # ty: ignore[not-callable]  transformers' own method
        with timed() as start:
            engine = start_engine(saved, Path(folder, "engine.log"))
        try:
            return [Row(name="engine start", value=f"{start[0]:.1f} s"), *_sampled_and_synced(engine, model, device)]
        finally:
            engine.close()


def _sampled_and_synced(engine: Engine, model: nn.Module, device: str) -> list[Row]:
    import asyncio

    requests = [Request(prompt_ids=(5, 6, 7, n), seed=n, max_new_tokens=NEW_TOKENS) for n in range(REQUESTS)]
    with timed() as sampling:
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
    with timed() as syncing:
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
    from alignkit.engines.vllm.arguments import Settings
    from alignkit.engines.vllm.engine import VllmEngine

    settings = Settings(memory_fraction=0.3, lends=torch.cuda.is_available())
    return VllmEngine(
        folder, dtype="bfloat16", max_model_len=CONTEXT, log_file=log_file, memory_gib=1, settings=settings
    )
