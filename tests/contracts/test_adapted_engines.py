"""Engines hold what a trainer computes with an adapter that parts a tied head from its embedding."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.engines.hf import HfEngine
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.models.save import describe
from alignkit.models.tokenizer import character_tokenizer
from alignkit.models.weights import named_policy_weights
from tests.contracts.test_engines import tiny_llama

SEQUENCE = [5, 9, 17, 30, 4, 61, 3, 3, 12]
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")


def adapted() -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], modules_to_save=["norm"], task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(tiny_llama(0), config).eval()


@pytest.mark.parametrize("kind", ["hf", pytest.param("vllm", marks=[needs_vllm, pytest.mark.slow])])
def test_head_and_embedding_arrive_as_two_matrices(kind: str, tmp_path: Path):
    model = adapted()
    if kind == "hf":
        engine: Any = HfEngine(model, dtype="float32")
    else:
        describe(model, character_tokenizer("01", context=128), tmp_path / "model", dtype=torch.float32)
        given: dict[str, Any] = {"dtype": "float32", "max_model_len": 128, "memory_gib": 1, "threads": 1}
        begins = named_policy_weights(model)
        engine = VllmEngine(tmp_path / "model", weights=begins, log_file=tmp_path / "log", **given)
    ids = torch.tensor([SEQUENCE])
    generator, said = torch.Generator().manual_seed(0), []
    try:
        for version in (1, 2):
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
                expected = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            engine.update(named_policy_weights(model), version=version)
            [scores] = asyncio.run(engine.score([SEQUENCE]))
            assert scores == pytest.approx(expected.tolist(), abs=2e-4)
            said.append(scores)
    finally:
        engine.close()
    assert said[0] != pytest.approx(said[1], abs=0.1), "the update must matter"
