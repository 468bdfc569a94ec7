"""What only the hf engine can be asked: the trainer's autocast, broken logits, a model that it shares."""

from __future__ import annotations

import asyncio

import pytest
import torch

from alignkit.engines.hf import HfEngine
from alignkit.errors import EngineError
from tests.contracts.test_engines import CLOSE, ask, forced, tiny_llama


def test_bfloat16_in_the_hf_engine_is_the_trainers_autocast_to_the_bit():
    model, sequence = tiny_llama(0), list(range(3, 63))
    scores = asyncio.run(HfEngine(model, dtype="bfloat16").score([sequence]))[0]
    ids = torch.tensor([sequence])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    assert scores == logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()
    exact = asyncio.run(HfEngine(model, dtype="float32").score([sequence]))[0]
    assert scores != pytest.approx(exact, abs=1e-4), "autocast must make a difference in this test"


def test_weights_that_are_not_numbers_are_an_error_not_a_sample():
    model = tiny_llama(0)
    torch.nn.init.constant_(model.model.norm.weight, torch.nan)
    with pytest.raises(EngineError, match="not finite"):
        asyncio.run(HfEngine(model, dtype="float32").generate([ask()]))


def test_a_shared_model_is_sampled_as_it_is_and_left_as_it_was():
    model = tiny_llama(0).train()
    engine = HfEngine(model, dtype="float32", share=True)
    before = asyncio.run(engine.generate([ask(1)]))[0]
    assert before == asyncio.run(HfEngine(model, dtype="float32").generate([ask(1)]))[0]
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(2)
    engine.update([], version=1)
    after = asyncio.run(engine.generate([ask(1)]))[0]
    assert after.policy_version == 1
    assert after.logprobs == pytest.approx(forced(model, ask(1), after), abs=CLOSE)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
