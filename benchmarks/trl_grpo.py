"""TRL's side of the GRPO step: GRPOTrainer.train() itself, held at each step until it is its turn.

Nothing of TRL is replaced. Generation is forced to the shape's lengths by a logits processor that allows the stop token
exactly where the trace wants it; one callback takes turns, and the methods that are timed call TRL's own.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from alignkit.models.load import smollm2_folder
from alignkit.run.train.memory import keep_freed_memory
from benchmarks.ours import LEARNING_RATE, MAX_GRAD_NORM
from benchmarks.shapes import SHORTEST, Shape
from benchmarks.trl_settings import Settings

STEPS = 1000  # more than anyone measures; the other side ends the run


class ForcedLengths(LogitsProcessor):
    """Row i of a generation ends with its stop token as token number lengths[i], never before."""

    def __init__(self, lengths: list[int], stop: int, prompt: int):
        self.lengths, self._stop, self._prompt = lengths, stop, prompt

    def __call__(self, input_ids: Any, scores: Any) -> torch.Tensor:
        ends = input_ids.shape[1] - self._prompt + 1 >= torch.tensor(self.lengths)
        stop = scores[:, self._stop].clone()
        scores = scores.masked_fill(ends[:, None], -torch.inf)
        scores[:, self._stop] = torch.where(ends, stop, -torch.inf)
        return scores


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer that notes seconds of generation and, for every micro-batch, loss, sum of entropies and tokens.

    completions: when set, the next generated ones are thrown away and these are trained on.
    """

    generate_s = 0.0
    completions: list[list[int]] | None = None
    losses: list[float]
    entropies: list[tuple[float, float]]

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], Any]:
        begun = time.perf_counter()
        completions, logprobs = super()._generate_single_turn(*args, **kwargs)
        self.generate_s = time.perf_counter() - begun
        given, self.completions = self.completions, None
        return given or completions, logprobs

    def _get_per_token_logps_and_entropies(self, model: Any, ids: Any, mask: Any, keep: int, *args: Any, **kwargs: Any):
        logprobs, entropies, extra = super()._get_per_token_logps_and_entropies(model, ids, mask, keep, *args, **kwargs)
        if entropies is not None:
            completion = mask[:, -keep:]
            self.entropies.append((float((entropies.detach() * completion).sum()), float(completion.sum())))
        return logprobs, entropies, extra

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().compute_loss(*args, **kwargs)
        self.losses.append(float(loss.detach()))
        return loss


class Turns(TrainerCallback):
    """Waits for a command at the start of each step and answers at its end. forced: gets the lengths of generation."""

    def __init__(self, connection: Connection, shape: Shape, forced: ForcedLengths):
        self._connection, self._shape, self._forced = connection, shape, forced
        self.trainer: Any = None  # set once it exists
        self._file: Path | None = None
        self._ready = False

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        if not self._ready:
            self._connection.send("ready")
            self._ready = True
        self.trainer.losses, self.trainer.entropies = [], []
        self._forced.lengths = self._shape.lengths
        match self._connection.recv():
            case ("gradient", completions, file):
                self.trainer.completions, self._file = completions, file
                self._forced.lengths = [SHORTEST] * self._shape.samples
        self._begun = time.perf_counter()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        if self._file is not None:
            save_file({name: p.grad for name, p in self.trainer.model.named_parameters()}, self._file)
            self._file = None

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        total = time.perf_counter() - self._begun
        entropy, tokens = map(sum, zip(*self.trainer.entropies, strict=True))
        self._connection.send(
            {
                "sync_s": 0.0,
                "generate_s": self.trainer.generate_s,
                "update_s": total - self.trainer.generate_s,
                "loss": sum(self.trainer.losses),
                "entropy": entropy / tokens,
            }
        )


def serve(connection: Connection, shape: Shape, settings: Settings) -> None:
    """Commands: `step`, one whole step; ("gradient", completions, file), the warm-up: a step with a short generation,
    trained on given completions, that writes its gradient (as clipped). TRL samples with the weights it trains, so
    there is no sync."""
    if settings.allocator:
        keep_freed_memory()
    folder = smollm2_folder()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    dtype = getattr(torch, settings.weights)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    forced = ForcedLengths(shape.lengths, tokenizer.eos_token_id, shape.prompt)
    model.generate = partial(model.generate, logits_processor=LogitsProcessorList([forced]))
    turns = Turns(connection, shape, forced)

    def reward(completions: list[str], **_: Any) -> Any:
        return shape.rewards

    with tempfile.TemporaryDirectory() as output:
        trainer = TimedTrainer(
            model,
            reward_funcs=reward,
            args=_config(shape, settings, output),
            train_dataset=Dataset.from_dict({"prompt": [tokenizer.decode(ids) for ids in shape.prompt_ids(tokenizer)]}),
            processing_class=tokenizer,
            callbacks=[turns],
        )
        turns.trainer = trainer
        trainer.train()


def _config(shape: Shape, settings: Settings, output: str) -> GRPOConfig:
    return GRPOConfig(
        output_dir=output,
        use_cpu=True,
        bf16=settings.autocast,
        gradient_checkpointing=settings.checkpointing,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=shape.samples // settings.batch,
        num_generations=shape.group,
        max_completion_length=shape.longest_completion,
        cache_implementation=settings.cache,
        torch_compile=settings.compile,
        temperature=1.0,
        beta=0.0,
        loss_type="dapo",  # the mean over all tokens, as our default
        optim="adamw_torch_fused",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        max_steps=STEPS,
        shuffle_dataset=False,
        dataloader_pin_memory=False,
        logging_steps=STEPS,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
