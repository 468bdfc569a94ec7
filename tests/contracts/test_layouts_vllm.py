"""Which boxes vLLM's own layers and loaders take, up to 8 workers, against slicing by hand: no process per worker."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from alignkit.models.load import named_policy_weights
from tests.contracts.hand_layouts import by_hand

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)"),
]
SCRIPT = Path(__file__).with_name("vllm_layouts.py")
SIZES: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8,
         "head_dim": 32, "max_position_embeddings": 128}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied, one kv head": ("llama", {"vocab_size": 64, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2 with biases, odd vocabulary": ("qwen2", {"vocab_size": 100, "num_key_value_heads": 2}),
    "qwen3 with norms of heads": ("qwen3", {"vocab_size": 200, "num_key_value_heads": 4}),
    "qwen3 experts": ("qwen3_moe", {"vocab_size": 64, "num_key_value_heads": 2, **EXPERTS}),
    "mixtral": ("mixtral", {"vocab_size": 64, "num_key_value_heads": 8, "num_local_experts": 8}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_each_of_2_4_and_8_workers_takes_is_what_slicing_by_hand_gives(case: str, tmp_path: Path):
    kind, own = CASES[case]
    config = AutoConfig.for_model(kind, **{"tie_word_embeddings": False} | SIZES | own)
    model = AutoModelForCausalLM.from_config(config)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    shapes = {name: tuple(tensor.shape) for name, tensor in named_policy_weights(model)}
    command = [sys.executable, str(SCRIPT), str(tmp_path), "2", "4", "8"]
    told = subprocess.run(command, input=json.dumps(shapes), capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    for size, workers in json.loads(told.stdout.splitlines()[-1]).items():
        for rank, worker in enumerate(workers):
            assert worker["whole"] == []
            kv_heads = own["num_key_value_heads"]
            assert worker["boxes"] == by_hand(shapes, rank, int(size), kv_heads=kv_heads), (size, rank)
