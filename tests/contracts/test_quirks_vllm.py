"""Families of which vLLM says something else than transformers unless alignkit sees to it: real vLLM, updated once."""

from __future__ import annotations

import inspect
import json
import runpy
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.engines.vllm.quirks.config import same_config
from alignkit.engines.vllm.quirks.missed import load_missed
from tests.model_families import DEEPSEEK, FAMILIES, Family

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")
SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / ".ci" / "models_table.py"))
FAMILY = {family.name.split(" (")[0]: family for family in FAMILIES}
CASES = {name: FAMILY[name] for name in ("Cohere 2", "gpt-oss", "BLOOM", "Llama 4")} | {
    "greedy beside groups of experts": Family("", "deepseek_v2", DEEPSEEK),
    "no name of the router": Family("", "deepseek_v3", DEEPSEEK),
    "key heads of a family that has none": Family("", "gpt_neox"),
}


@pytest.mark.slow
@needs_vllm
@pytest.mark.parametrize("name", CASES)
def test_an_updated_engine_says_what_the_model_says_and_its_read_back_agrees(name: str):
    """Cohere 2 has a window of 4, which 12 tokens exceed: once vLLM counts as transformers does, it is 3 and wrong."""
    assert SCRIPT["sampled"](CASES[name]).startswith("yes")


@pytest.mark.slow
@needs_vllm
def test_vllm_still_copies_experts_and_sinks_of_gpt_oss_past_what_its_reload_watches():
    """What quirks/missed.py works around: when this fails, they may have loaders, and that file can go."""
    from vllm.model_executor.models.gpt_oss import GptOssModel

    source = inspect.getsource(GptOssModel._load_weights_other)
    assert source.count("param.copy_(") == 4
    assert "param.data.copy_(narrow_weight)" in source


NAMED = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "cohere2", "sliding_window": 4096}, {"sliding_window": 4095}),
        ({"model_type": "cohere2", "sliding_window": None}, {}),
        ({"model_type": "mistral", "sliding_window": 4096}, {}),
        ({"model_type": "deepseek_v2", "n_group": 8, "topk_group": 3}, {"n_group": 1, "topk_group": 1}),
        ({"model_type": "deepseek_v2", "n_group": 8, "topk_method": "group_limited_greedy"}, {}),
        ({"model_type": "deepseek_v2", "n_group": 1, "topk_method": "greedy"}, {}),
        ({"model_type": "deepseek_v3", "n_group": 8}, NAMED),
        ({"model_type": "deepseek_v3", "n_group": 8, **NAMED}, {}),
        ({"model_type": "gpt_neox", "num_attention_heads": 8, "num_key_value_heads": 2}, {"num_key_value_heads": 8}),
        ({"model_type": "gpt_neox", "num_attention_heads": 8}, {}),
        ({"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 2}, {}),
    ],
)
def test_vllm_is_told_another_setting_where_it_reads_it_otherwise_and_else_nothing(
    config: dict, expected: dict, tmp_path: Path
):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same_config(tmp_path) == ({"hf_overrides": expected} if expected else {})


class GptOssForCausalLM:
    """A stand-in that notes what it is given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        self.given += [name for name, _ in weights]


class LlamaForCausalLM(GptOssForCausalLM):
    pass


@pytest.mark.parametrize("kind", [GptOssForCausalLM, LlamaForCausalLM])
def test_of_gpt_oss_alone_experts_and_sinks_are_loaded_a_second_time(kind: Any):
    layer = "model.layers.0"
    missed = [f"{layer}.mlp.experts.gate_up_proj", f"{layer}.mlp.experts.down_proj_bias", f"{layer}.self_attn.sinks"]
    names = [*missed, f"{layer}.self_attn.q_proj.weight", f"{layer}.mlp.router.weight", "lm_head.weight"]
    model = kind()
    load_missed(model, dict.fromkeys(names, torch.zeros(1)))
    assert model.given == (missed if kind is GptOssForCausalLM else [])
