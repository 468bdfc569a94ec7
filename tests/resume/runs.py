"""A small GRPO run for the resume tests, and what two runs must share to count as the same run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Recipe
from alignkit.run_folder.run_folder import comparable

RECIPE = """
seed: 5
model:
  scratch: {characters: "0123456789+=", layers: 2, hidden: 32, heads: 2, context: 12}
  dtype: float32
data:
  source: generator:arithmetic
  options: {digits: 1, style: characters}
  chat: false
  max_prompt_tokens: 6
rollouts: {engine: hf, prompts: 8, group: 4, max_new_tokens: 3, canary_tolerance: 0.001, reward_workers: 1}
stages:
  - name: sft
    algorithm: {type: sft}
    optimizer: {lr: 3e-3}
    train: {steps: 5, batch: 16}
  - name: grpo
    rewards: [{name: exact_match}, {name: ends_with_stop, weight: 0.2}]
    algorithm: {type: grpo, loss: {kl: loss, kl_weight: 0.01}}
    optimizer: {lr: 1e-3, schedule: cosine, warmup_steps: 3}
    train: {steps: STEPS, minibatches: 2}
checkpoints: {every: EVERY}
health: {dead_steps: 1000}
"""


def write_recipe(folder: Path, *, steps: int, every: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.replace("STEPS", str(steps)).replace("EVERY", str(every)))
    return path


def read(path: Path, run: Path, *overrides: str) -> Recipe:
    return read_recipe(path, [f"run={run}", *overrides])


def fingerprint(run: Path) -> dict[str, object]:
    """The final weights' hash, every metric that is no wall-clock time, and every consumed prompt in order."""
    ledger = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    return {
        "weights": hashlib.sha256((run / "final" / "model.safetensors").read_bytes()).hexdigest(),
        "metrics": comparable(run),
        "prompts": [(line["step"], line["task_ids"]) for line in ledger],
    }
