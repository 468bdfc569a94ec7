"""Weights lent to real vLLM, through its own weight transfer, by handles of a stand-in that is stricter than CUDA's."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.engines.hf import HfEngine
from alignkit.engines.vllm.arguments import Settings
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.errors import EngineError, SyncError
from alignkit.models.adapter_matrices import adapter_shapes
from alignkit.models.load import named_policy_weights
from alignkit.weights import handles
from tests.contracts import lending
from tests.contracts.test_adapter_vllm import adapted, gap, parts, train
from tests.contracts.test_engines import CLOSE, tiny_llama

SEQUENCE = list(range(3, 40))
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")


class Borrower(VllmEngine):
    command = (VllmEngine.command[0], str(Path(__file__).with_name("borrowing_worker.py")))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles.reductions, "reduce_tensor", lending.reduce_tensor)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: lending.CARD)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)


def start(folder: Path, **given: Any) -> VllmEngine:
    tiny_llama(0).save_pretrained(folder / "model")
    given |= {"dtype": "float32", "max_model_len": 128, "memory_gib": 1, "threads": 1}
    return Borrower(folder / "model", log_file=folder / "log", settings=Settings(lends=True), **given)


@pytest.mark.slow
@needs_vllm
@pytest.mark.usefixtures("card")
def test_lent_weights_are_what_vllm_computes_with_and_nothing_stays_lent(tmp_path: Path):
    engine = start(tmp_path)
    try:
        for version, seed in enumerate((1, 2, 1), start=1):
            model = tiny_llama(seed)
            engine.update(named_policy_weights(model), version=version)
            assert not list(lending.FOLDER.iterdir()), "the trainer lets go of what it lent"
            [scores] = asyncio.run(engine.score([SEQUENCE]))
            expected = asyncio.run(HfEngine(model, dtype="float32").score([SEQUENCE]))[0]
            assert scores == pytest.approx(expected, abs=CLOSE)
        packed = {name.rpartition(".")[0].rpartition(".")[2] for name in engine.unverified}
        assert packed == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}, "the CPU keeps these packed only"
        lacking = {name: tensor for name, tensor in named_policy_weights(model) if "layers.1.mlp.down" not in name}
        with pytest.raises(EngineError, match=r"lacks 1 weights, first: model\.layers\.1\.mlp\.down_proj\.weight"):
            engine.update(lacking.items(), version=9)
        assert asyncio.run(engine.score([SEQUENCE]))[0] == scores
    finally:
        engine.close()


@pytest.mark.slow
@needs_vllm
@pytest.mark.usefixtures("card")
def test_a_tensor_whose_memory_was_another_ones_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPOILED", "model.norm.weight")
    weights = {name: tensor.clone() for name, tensor in named_policy_weights(tiny_llama(1))}
    weights["model.layers.0.input_layernorm.weight"] += 1e-6
    engine = start(tmp_path)
    with pytest.raises(SyncError, match=r"1 parameters still compute with other weights, first: model\.norm\.weight;"):
        engine.update(weights.items(), version=1)


@pytest.mark.slow
@needs_vllm
@pytest.mark.usefixtures("card")
def test_an_adapter_goes_through_the_memory_while_its_base_is_lent(tmp_path: Path):
    """The memory that held the base at the start is given back, and vLLM does not miss it."""
    model = adapted()
    engine = start(tmp_path, weights=named_policy_weights(model, part="base"), adapter=adapter_shapes(model))
    try:
        assert os.fstat(engine._sender.descriptor).st_size < 20_000 < sum(p.nbytes for p in tiny_llama(0).parameters())
        assert gap(engine, tiny_llama(0)) < CLOSE, "before the first push there is no adapter"
        engine.update(parts(model, "base", "adapter"), version=1)
        assert not list(lending.FOLDER.iterdir())
        assert gap(engine, model) < CLOSE
        train(model, 1, 0.2)
        assert gap(engine, model) > 0.3
        engine.update(parts(model, "adapter"), version=2)
        assert gap(engine, model) < CLOSE
    finally:
        engine.close()


@pytest.mark.usefixtures("card")
def test_a_handle_opens_only_in_another_process_and_only_while_the_tensor_lives():
    """The stand-in itself must be able to fail."""
    tensor = torch.arange(3.0)
    lent = handles.lend({"a": tensor})
    [handle] = handles.update_info(lent)["ipc_handles"]
    assert handles.update_info(lent)["shapes"] == [[3]]
    with pytest.raises(AssertionError, match="in the process that made it"):
        lending.rebuild_cuda_tensor(*handle[lending.CARD.uuid])
    place = Path(handle[lending.CARD.uuid][0])
    assert place.exists()
    del tensor
    assert not place.exists()
