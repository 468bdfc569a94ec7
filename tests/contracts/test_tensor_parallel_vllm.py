"""Real vLLM with two workers: what each takes, holds, proves and says, what two say beside one, and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from alignkit.engines.vllm.arguments import Settings
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.errors import EngineError
from alignkit.models.adapter_matrices import adapter_shapes
from alignkit.models.load import named_policy_weights
from alignkit.models.save import describe
from alignkit.models.tokenizer import character_tokenizer
from alignkit.processes.family import descendants
from tests.contracts.hand_layouts import by_hand
from tests.contracts.test_adapter_vllm import adapted, gap, parts, train
from tests.contracts.test_engines import CLOSE, CONTEXT, ask, assert_parity, tiny_llama
from tests.unit.test_vllm_process import has_ended

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)"),
]
TWO = Settings(tensor_parallel=2)
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


class Shown(VllmEngine):
    """Real vLLM whose workers show what they hold, and have the fault that stands in a file."""

    faults: Path

    def spoil(self, fault: str) -> None:
        self.faults.write_text(fault)

    def proof(self, model: Any, version: int) -> list[str]:
        """Which tensors an update finds stale; unlike `update`, the engine goes on."""
        return self._sender.send(named_policy_weights(model), version, self._call)["stale"]

    def shown(self) -> list[dict[str, Any]]:
        return self._call({"do": "show"})["workers"]

    def processes(self) -> list[int]:
        return self._call({"do": "processes"})["processes"]


def tiny_qwen(seed: int) -> Any:
    """Biases, a head of its own, a vocabulary that vLLM pads to 128, and two key heads: one a worker."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = Qwen2Config(vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                             num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=CONTEXT,
                             tie_word_embeddings=False, initializer_range=0.2)  # fmt: skip
        model = Qwen2ForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        return model.eval()


@dataclass
class Case:
    engine: Shown
    build: Callable[[int], Any]
    kv_heads: int


def start(folder: Path, model: Any, kind: type[VllmEngine] = VllmEngine, **given: Any) -> Any:
    """It begins with weights out of memory, of a model of which its folder holds the config only."""
    describe(model, character_tokenizer("01", context=CONTEXT), folder / "model", dtype=torch.float32)
    given = {"weights": named_policy_weights(model), "settings": TWO, "memory_gib": 1, "threads": 2} | given
    return kind(folder / "model", dtype="float32", max_model_len=CONTEXT, log_file=folder / "log", **given)


def start_shown(folder: Path, model: Any) -> Shown:
    (folder / "faults").touch()
    worker = str(Path(__file__).with_name("parallel_worker.py"))
    kind: Any = type("ShownHere", (Shown,), {"command": (sys.executable, worker, str(folder / "faults"))})
    kind.faults = folder / "faults"
    return start(folder, model, kind)


@pytest.fixture(scope="module", params=["llama, tied, one key head", "qwen2, biases, two key heads"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    build, kv_heads = (tiny_llama, 1) if request.param.startswith("llama") else (tiny_qwen, 2)
    engine = start_shown(tmp_path_factory.mktemp("two"), build(0))
    yield Case(engine, build, kv_heads)
    engine.close()


def shares(model: Any, rank: int, kv_heads: int) -> dict[str, torch.Tensor]:
    """What worker `rank` of two must hold, by vLLM's names, cut by hand from the whole tensors."""
    weights = dict(named_policy_weights(model))
    own = {}
    for name, begin, size in by_hand({n: tuple(w.shape) for n, w in weights.items()}, rank, 2, kv_heads=kv_heads):
        own[name] = weights[name][tuple(slice(b, b + s) for b, s in zip(begin, size, strict=True))].detach()
    for fused, pieces in FUSED.items():
        for name in [name for name in own if f".{pieces[0]}." in name]:
            whole = torch.cat([own.pop(name.replace(pieces[0], piece)) for piece in pieces])
            own[name.replace(pieces[0], fused)] = whole
    return own


def assert_held(case: Case, model: Any) -> None:
    for rank, shown in enumerate(case.engine.shown()):
        expected = shares(model, rank, case.kv_heads)
        if "lm_head.weight" not in expected:
            expected["lm_head.weight"] = expected["model.embed_tokens.weight"]  # tied
        assert shown.keys() == expected.keys()
        for name, held in expected.items():  # rows that vLLM adds to a vocabulary come after those of the checkpoint
            assert torch.equal(torch.tensor(shown[name])[: len(held)], held), (rank, name)


def test_each_worker_wants_and_after_an_update_holds_to_the_bit_what_slicing_by_hand_gives(case: Case):
    shapes = {name: tuple(tensor.shape) for name, tensor in named_policy_weights(case.build(0))}
    for rank, worker in enumerate(case.engine.layout()):
        assert worker == {"boxes": by_hand(shapes, rank, 2, kv_heads=case.kv_heads), "whole": []}
    assert_held(case, case.build(0))
    case.engine.update(named_policy_weights(case.build(1)), version=1)
    assert case.engine.unverified == ()
    assert_held(case, case.build(1))


def test_two_workers_say_what_the_trainers_own_forward_says_and_the_tokens_that_one_says(case: Case, tmp_path: Path):
    model = case.build(2)
    case.engine.update(named_policy_weights(model), version=2)
    requests = [ask(seed, temperature=0.0 if seed < 4 else 1.0, prompt_ids=(5, 9, seed + 3)) for seed in range(8)]
    two = asyncio.run(case.engine.generate(requests))
    assert_parity(model, requests, two)
    alone = start(tmp_path, model, settings=Settings())
    try:
        one = asyncio.run(alone.generate(requests))
    finally:
        alone.close()
    assert [each.token_ids for each in two] == [each.token_ids for each in one]
    for ours, theirs in zip(two, one, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=CLOSE)


@pytest.mark.parametrize(
    ("fault", "stale"),
    [
        ("moved 1", ["model.layers.1.input_layernorm.weight of worker 1"]),
        ("moved 0", ["model.layers.1.input_layernorm.weight of worker 0"]),
        ("shifted 1", ["model.layers.1.self_attn.o_proj.weight of worker 1"]),
        ("untold 1", ["all of worker 1"]),
    ],
)
def test_a_fault_of_one_worker_is_found_and_named_with_its_number(case: Case, fault: str, stale: list[str]):
    case.engine.spoil(fault)
    assert case.engine.proof(case.build(3), 3) == stale
    case.engine.spoil("")
    assert case.engine.proof(case.build(3), 3) == []


def test_a_worker_that_is_killed_while_it_loads_closes_the_engine_and_is_named(case: Case):
    """The last test of a case."""
    workers = case.engine.processes()
    case.engine.spoil("dies 1")
    begin = time.monotonic()
    with pytest.raises(EngineError, match=rf"worker 1 \(process {workers[1]}\) was killed by SIGKILL"):
        case.engine.update(named_policy_weights(case.build(4)), version=4)
    assert time.monotonic() - begin < 60
    assert case.engine.closed
    assert all(has_ended(process, within_s=30) for process in workers)


def test_an_adapter_by_itself_is_shared_out_and_compared_in_both_workers(tmp_path: Path):
    model = adapted()
    begins, shapes = named_policy_weights(model, part="base"), adapter_shapes(model)
    engine = start(tmp_path, model, weights=begins, adapter=shapes)
    try:
        engine.update(parts(model, "base", "adapter"), version=1)
        assert engine.unverified == ()
        assert gap(engine, model) < CLOSE
        train(model, 2, 0.2)
        assert gap(engine, model) > 0.3
        engine.update(parts(model, "adapter"), version=2)
        assert gap(engine, model) < CLOSE
    finally:
        engine.close()


@pytest.mark.parametrize("killed", ["trainer", "engine"])
def test_a_killed_trainer_or_engine_leaves_no_worker_behind(killed: str, tmp_path: Path):
    """While the workers are busy."""
    describe(tiny_llama(0), character_tokenizer("01", context=CONTEXT), tmp_path / "model", dtype=torch.float32)
    script = f"""
        import asyncio
        from pathlib import Path
        from tests.contracts.test_engines import ask, tiny_llama
        from tests.contracts.test_tensor_parallel_vllm import start

        engine = start(Path({str(tmp_path)!r}), tiny_llama(0))
        print(engine.process_id, flush=True)
        asyncio.run(engine.generate([ask(seed, max_new_tokens=100) for seed in range(5000)]))
    """
    trainer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    engine = int(trainer.stdout.readline())
    time.sleep(1)
    family = [engine, *descendants(engine)]
    assert len(family) >= 3
    os.kill(trainer.pid if killed == "trainer" else engine, signal.SIGKILL)
    assert all(has_ended(process, within_s=30) for process in family)
    threading.Timer(60, trainer.kill).start()
    trainer.wait()
    trainer.stdout.close()
