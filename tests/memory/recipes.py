"""Recipes whose models are numbers of this file: a character model without a folder."""

from __future__ import annotations

from pathlib import Path

HIDDEN, LAYERS = 512, 1
WHAT = f"""
seed: 0
model:
  scratch: {{characters: "0123456789+=", layers: {LAYERS}, hidden: {HIDDEN}, heads: 8, context: 512}}
  dtype: DTYPE
data:
  source: generator:arithmetic
  options: {{digits: 1, style: characters, answers: ANSWERS}}
  chat: false
  max_prompt_tokens: 128
rewards: [{{name: exact_match}}]
rollouts: {{engine: ENGINE, prompts: 4, group: GROUP, max_new_tokens: 128, gpu_memory_fraction: 0.5}}
algorithm: ALGORITHM
optimizer: {{lr: 1e-3}}
train: {{steps: 2, BATCH micro_batch_tokens: 512}}
"""
GRPO = "{type: grpo, loss: {kl: loss, kl_weight: 0.01}}"
PPO = "{type: ppo, kl_weight: 0.01}"
DPO = "{type: dpo}"


def write(folder: Path, algorithm: str, *, engine: str = "vllm", dtype: str = "float32") -> Path:
    """The recipe's file, of one of the algorithms above."""
    text = WHAT.replace("ALGORITHM", algorithm).replace("ENGINE", engine).replace("DTYPE", dtype)
    text = text.replace("GROUP", "1" if algorithm == PPO else "2")
    pairs = algorithm == DPO
    text = text.replace("ANSWERS", "paired_preference" if pairs else "none").replace("BATCH", "batch: 4," * pairs)
    path = folder / "sized.yaml"
    path.write_text(text)
    return path


def numbers() -> tuple[int, int]:
    """Numbers in the matrices of these recipes' policy, and in the scales of its norms."""
    vocabulary, inner = 12 + 3, 1376  # characters, pad, bos and eos; 8/3 of the width, rounded up to 32
    matrices = 2 * vocabulary * HIDDEN + LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * inner)
    return matrices, (2 * LAYERS + 1) * HIDDEN
