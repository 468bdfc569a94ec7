"""Families that the packed path does not take, in whole runs: given data and sampled, to the end, in one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alignkit.models.load import save_pretrained
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.read import read_recipe
from alignkit.run.train.train import run as train
from tests.model_families import FAMILIES, VOCABULARY, tiny

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(3) for b in range(3)]
SFT = "data: {source: ./rows.jsonl, chat: false}\nalgorithm: {type: sft}\n"
GRPO = """
data: {source: "generator:arithmetic", options: {digits: 1, style: characters}, chat: false, max_prompt_tokens: 8}
rewards: [{name: ends_with_stop}]
rollouts: {engine: hf, prompts: 2, group: 2, max_new_tokens: 4, canary_tolerance: 0.001}
algorithm: {type: grpo}
"""
REST = "seed: 0\nmodel: {path: ./model, dtype: float32}\noptimizer: {lr: 1e-3}\ncheckpoints: {every: null}\n"
NAMES = (
    "Mistral 7B v0.1 (window)",
    "Gemma 2 (windows, soft caps)",
    "Mixtral",
    "gpt-oss (window, sinks)",
    "MiniCPM3",
    "StableLM",
    "Llama 4 (text)",
    "Qwen3.5",
    "Mamba 2",
    "BLOOM",
)


@pytest.mark.parametrize("data", ["sft", "grpo"])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_any_family_ends_well_and_says_at_most_once_that_it_goes_the_plain_way(name, data, tmp_path):
    family = next(each for each in FAMILIES if each.name == name)
    tokenizer = character_tokenizer("0123456789+-*=", context=128)
    assert len(tokenizer) <= VOCABULARY
    save_pretrained(tiny(family), tokenizer, tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "recipe.yaml").write_text(REST + (SFT if data == "sft" else GRPO))
    changes = ["train={steps: 2}" if data == "grpo" else "train={steps: 2, batch: 2}", f"run={tmp_path / 'run'}"]
    train(read_recipe(tmp_path / "recipe.yaml", changes), resume=False)
    events: list[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    ]
    told = [each for each in events if "the packed forward is off" in json.dumps(each)]
    assert len(told) == (family.plain is not None)
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
