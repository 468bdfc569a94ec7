"""Our side of the GRPO step: the objects that a run is made of, put together as run/train/build.py does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from alignkit.algorithms.rollouts import grpo
from alignkit.engines.canary import probe
from alignkit.engines.engine import Engine
from alignkit.engines.hf import HfEngine
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.models.forward import Forward
from alignkit.models.load import load_policy, smollm2_folder
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.schema import Model, Optimizer, Train
from alignkit.run.train.memory import keep_freed_memory
from alignkit.train.step import Step
from alignkit.train.sync import Sync
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.rollout import Completion, Request
from benchmarks.shapes import SHORTEST, Shape

LEARNING_RATE = 1e-6
MAX_GRAD_NORM = 1.0
MAX_TOKENS = Train(steps=1).micro_batch_tokens
CANARY_TOLERANCE = 0.08  # as in recipes


class _Trainer(SingleTrainer):
    """Writes the next gradient to `gradient_file`, when that is set; uses it all the same unless `discard` is set."""

    gradient_file: Path | None = None
    discard = False

    def step(self, lr: float) -> float:
        file, self.gradient_file = self.gradient_file, None
        if file is not None:
            save_file({name: p.grad for name, p in self._trained.items() if p.grad is not None}, file)
        if not self.discard:
            return super().step(lr)
        self.optimizer.zero_grad(set_to_none=True)
        return 0.0


class Ours:
    """One policy, one engine. dtype: of the arithmetic; weights and optimizer are float32."""

    def __init__(self, shape: Shape, dtype: str):
        keep_freed_memory()
        self.shape, self._dtype, self._version = shape, dtype, 0
        model = Model.model_validate({"path": "smollm2-135m-instruct", "dtype": dtype})
        self.model, tokenizer = load_policy(model, seed=0)
        self._prompts = [ids for ids in shape.prompt_ids(tokenizer) for _ in range(shape.group)]
        self.config = grpo.Config(type="grpo", loss=grpo.PolicyLoss(correction="none"))
        self.trainer = _Trainer(self.model, Optimizer(lr=LEARNING_RATE, max_grad_norm=MAX_GRAD_NORM))
        self.forward = Forward(self.model, getattr(torch, dtype), report=_refuse)
        self._probe = probe(tokenizer, vocab_size=len(tokenizer), seed=0)

    def start_engine(self, log_file: Path) -> VllmEngine:
        engine = VllmEngine(
            smollm2_folder(),
            dtype=self._dtype,
            max_model_len=self.shape.prompt + self.shape.longest_completion,
            log_file=log_file,
            threads=torch.get_num_threads(),
        )
        self._sync = Sync(engine=engine, group=Group(), probe=self._probe, tolerance=CANARY_TOLERANCE)
        return engine

    def step(self, engine: Engine) -> dict[str, Any]:
        """Sync, generate, update, as the loop does them; seconds of each."""
        begun = time.perf_counter()
        self._sync(self._version, self.trainer, self.forward)
        synced = time.perf_counter()
        completions = self.generate(engine, self.shape.lengths)
        generated = time.perf_counter()
        self.update(self.batch([c.token_ids for c in completions], [c.logprobs for c in completions]))
        return {
            "sync_s": synced - begun,
            "generate_s": generated - synced,
            "update_s": time.perf_counter() - generated,
        }

    def warm_up(self, engine: Engine, completions: Sequence[Sequence[int]], file: Path) -> dict[str, Any]:
        """A whole step with a short generation, trained on these completions; its gradient goes to `file`."""
        self._sync(self._version, self.trainer, self.forward)
        self.generate(engine, [SHORTEST] * self.shape.samples)
        self.trainer.gradient_file = file
        return self.update(self.batch(completions))

    def generate(self, engine: Engine, lengths: Sequence[int]) -> list[Completion]:
        """Completions of exactly these lengths: no stop token is given, and each has its own limit."""
        requests = [
            Request(prompt_ids=ids, seed=1000 * self._version + number, max_new_tokens=length)
            for number, (ids, length) in enumerate(zip(self._prompts, lengths, strict=True))
        ]
        return asyncio.run(engine.generate(requests))

    def batch(self, completions: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]] | None = None) -> Batch:
        """The packed batch with its advantages. The sampler's log-probs only feed a metric here; they default to 0."""
        items = [
            Item(
                prompt_ids=self._prompts[number],
                completion_ids=completion,
                sampler_logprobs=logprobs[number] if logprobs else [0.0] * len(completion),
                group=number // self.shape.group,
                member=number % self.shape.group,
                reward=self.shape.rewards[number],
                policy_version=self._version,
            )
            for number, completion in enumerate(completions)
        ]
        return grpo.estimate(self.config, pack(items).validate())

    def update(self, batch: Batch, forward: Forward | None = None, max_tokens: int = MAX_TOKENS) -> dict[str, Any]:
        """One optimizer step; its loss and mean entropy. forward: another one than the run's."""
        step = Step(
            algorithm=grpo.ALGORITHM,
            config=self.config,
            trainer=self.trainer,
            forward=forward or self.forward,
            group=Group(),
            temperature=1.0,
            max_tokens=max_tokens,
        )
        step.forward.verify(batch, temperature=1.0)
        metrics, _ = step.update(batch, range(batch.num_sequences), LEARNING_RATE)
        self._version += 1
        return {"loss": metrics["loss/policy"].value, "entropy": metrics["policy/entropy"].value}

    def exact_gradient(self, completions: Sequence[Sequence[int]], file: Path) -> dict[str, Any]:
        """Writes the gradient in float32 to `file`; the weights stay. Small micro-batches change nothing but memory."""
        self.trainer.gradient_file, self.trainer.discard = file, True
        forward = Forward(self.model, torch.float32, report=_refuse)
        metrics = self.update(self.batch(completions), forward, MAX_TOKENS // 4)
        self.trainer.discard = False
        return metrics


def serve(connection: Connection, shape: Shape, dtype: str, log_file: Path) -> None:
    """Commands: `sample`, completions for both sides; ("exact", completions, file), the float32 gradient;
    ("gradient", completions, file), the warm-up; `step`, the whole step; `hf`, seconds of generation with our hf
    engine."""
    with contextlib.ExitStack() as resources:
        ours = Ours(shape, dtype)
        engine = ours.start_engine(log_file)
        resources.callback(engine.close)
        connection.send("ready")
        while True:
            match connection.recv():
                case "sample":
                    connection.send([list(c.token_ids) for c in ours.generate(engine, shape.lengths)])
                case ("exact", completions, file):
                    connection.send(ours.exact_gradient(completions, file))
                case ("gradient", completions, file):
                    connection.send(ours.warm_up(engine, completions, file))
                case "step":
                    connection.send(ours.step(engine))
                case "hf":
                    begun = time.perf_counter()
                    ours.generate(HfEngine(ours.model, dtype=dtype, share=True), shape.lengths)
                    connection.send(time.perf_counter() - begun)


def _refuse(message: str) -> None:
    raise RuntimeError(message)  # a step on the plain path would be another measurement
