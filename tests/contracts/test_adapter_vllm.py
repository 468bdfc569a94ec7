"""Real vLLM with an adapter apart from its base: what it computes, what travels, what is proven to the bit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from alignkit.engines.vllm.engine import VllmEngine
from alignkit.errors import EngineError, SyncError
from alignkit.models.adapter_matrices import adapter_shapes
from alignkit.models.save import describe
from alignkit.models.tokenizer import character_tokenizer
from alignkit.models.weights import named_policy_weights
from tests.contracts.test_engines import ask, assert_parity, tiny_llama

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)"),
]
SEQUENCE = list(range(3, 60))
TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]  # of what vLLM fuses, two of three and one of two


class SpoiledAdapter(VllmEngine):
    """Real vLLM that holds one number by the least bit otherwise while `spoiled` says so."""

    spoiled: Path


def adapted(scale: float = 0.3) -> Any:
    """A tiny Llama with an adapter of rank 3, which vLLM pads to 8, and rank-stabilised scale."""
    config = LoraConfig(r=3, lora_alpha=7, use_rslora=True, target_modules=TARGETS, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(tiny_llama(0), config).eval()
        train(model, 0, scale)
    return model


def train(model: Any, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def parts(model: Any, *wanted: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for part in wanted:
        yield from named_policy_weights(model, part=part)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpoiledAdapter]:
    place, model = tmp_path_factory.mktemp("apart"), adapted()
    describe(model, character_tokenizer("01", context=128), place / "model", dtype=torch.float32)
    (place / "spoiled").touch()
    worker = str(Path(__file__).with_name("spoiled_adapter_worker.py"))
    SpoiledAdapter.command = (VllmEngine.command[0], worker, str(place / "spoiled"))
    SpoiledAdapter.spoiled = place / "spoiled"
    given: dict[str, Any] = {"dtype": "float32", "max_model_len": 128, "memory_gib": 1, "threads": 1}
    begins, shapes = named_policy_weights(model, part="base"), adapter_shapes(model)
    engine = SpoiledAdapter(place / "model", weights=begins, adapter=shapes, log_file=place / "log", **given)
    yield engine
    engine.close()


def gap(engine: VllmEngine, model: Any) -> float:
    """Largest distance of the log-probs of SEQUENCE from the model's own."""
    ids = torch.tensor([SEQUENCE])
    with torch.no_grad():
        own = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    [scores] = asyncio.run(engine.score([SEQUENCE]))
    return float((torch.tensor(scores) - own).abs().max())


def test_before_the_base_has_come_an_adapter_alone_is_refused(engine: SpoiledAdapter):
    with pytest.raises(EngineError, match=r"lacks 20 weights, first: model\.embed_tokens\.weight"):
        engine.update(parts(adapted(), "adapter"), version=1)


def test_an_adapter_alone_makes_vllm_compute_what_the_trainer_computes_then(engine: SpoiledAdapter):
    """Also for prompts whose beginning it has read with the adapter before; each is far from the one before."""
    model = adapted()
    engine.update(parts(model, "base", "adapter"), version=1)
    assert engine.unverified == ()
    assert gap(engine, model) < 2e-4
    requests = [ask(seed, prompt_ids=tuple(range(3, 60))) for seed in range(4)]
    for version in (2, 3):
        train(model, version, 0.2)
        assert gap(engine, model) > 0.3
        engine.update(parts(model, "adapter"), version=version)
        assert engine.policy_version == version
        assert gap(engine, model) < 2e-4
        assert_parity(model, requests, asyncio.run(engine.generate(requests)))


def test_the_same_adapter_pushed_again_gives_the_same_bits(engine: SpoiledAdapter):
    model = adapted()
    engine.update(parts(model, "base", "adapter"), version=4)
    requests = [ask(seed) for seed in range(4)]
    before = asyncio.run(engine.generate(requests))
    train(model, 1, 0.2)
    engine.update(parts(model, "adapter"), version=5)
    assert [c.token_ids for c in asyncio.run(engine.generate(requests))] != [c.token_ids for c in before]
    engine.update(parts(adapted(), "adapter"), version=4)
    assert asyncio.run(engine.generate(requests)) == before


def test_a_matrix_that_lacks_or_has_another_shape_is_refused_and_changes_nothing(engine: SpoiledAdapter):
    model = adapted()
    engine.update(parts(model, "base", "adapter"), version=6)
    matrices = dict(parts(model, "adapter"))
    name = "model.layers.0.mlp.down_proj.lora_A.weight"
    with pytest.raises(EngineError, match=r"an update lacks 21 weights"):  # the base, too: it was no whole update
        engine.update([pair for pair in matrices.items() if pair[0] != name], version=7)
    with pytest.raises(EngineError, match=r"down_proj\.lora_A\.weight as \(4, 96\), wanted \(3, 96\)"):
        engine.update((matrices | {name: torch.zeros(4, 96)}).items(), version=7)
    assert engine.policy_version == 6
    assert gap(engine, model) < 2e-4


def test_after_a_sleep_the_base_must_come_again(engine: SpoiledAdapter):
    model = adapted()
    engine.update(parts(model, "base", "adapter"), version=8)
    engine.sleep()
    engine.wake("weights")
    with pytest.raises(EngineError, match="lacks 20 weights"):
        engine.update(parts(model, "adapter"), version=8)
    engine.update(parts(model, "base", "adapter"), version=8)
    engine.wake("cache")
    assert gap(engine, model) < 2e-4


def test_a_number_that_is_wrong_by_its_last_bit_is_named(engine: SpoiledAdapter):
    """The last test of this file: the engine is closed by it."""
    engine.spoiled.write_text("yes")
    named = r"1 parameters still compute .* first: model\.layers\.1\.self_attn\.v_proj\.lora_B;"
    with pytest.raises(SyncError, match=named):
        engine.update(parts(adapted(), "base", "adapter"), version=9)


def test_a_layer_that_vllm_has_no_place_for_is_refused_at_the_start(tmp_path: Path):
    model = adapted()
    describe(model, character_tokenizer("01", context=128), tmp_path / "model", dtype=torch.float32)
    shapes = adapter_shapes(model) | {"model.layers.2.mlp.down_proj.lora_A.weight": (3, 96)}
    given: dict[str, Any] = {"dtype": "float32", "max_model_len": 128, "memory_gib": 1, "threads": 1}
    begins = named_policy_weights(model, part="base")
    refused = r"no place for 1 layers of the adapter, first: model\.layers\.2\.mlp\.down_proj; set engine\.lora: merged"
    with pytest.raises(EngineError, match=refused):
        VllmEngine(tmp_path / "model", weights=begins, adapter=shapes, log_file=tmp_path / "log", **given)
