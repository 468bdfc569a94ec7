"""The vllm engine's process, without vLLM: deaths, hangs, wrong answers and orphans."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from alignkit.engines.vllm import process as vllm_process
from alignkit.engines.vllm.arguments import Settings
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.errors import EngineError, SyncError
from alignkit.models.weights import named_policy_weights
from alignkit.parallel.group import Group
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Lora
from alignkit.run.train import build
from alignkit.types.rollout import Request, StopReason

WORKER = Path(__file__).with_name("vllm_fake_worker.py")
WEIGHTS = {"a": torch.tensor([1.0, 2.0]), "b": torch.full((2, 3), 0.5)}


class FakeEngine(VllmEngine):
    command = (sys.executable, str(WORKER))


def save_model(folder: Path, *, tied: bool = False) -> Path:
    folder.mkdir()
    save_file(WEIGHTS | {"lm_head.weight": torch.zeros(2, 2)} if tied else WEIGHTS, folder / "model.safetensors")
    (folder / "config.json").write_text('{"tie_word_embeddings": true}' if tied else "{}")
    return folder


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., VllmEngine]]:
    """Starts engines on a folder of the given name, and closes them afterwards."""
    monkeypatch.setattr(vllm_process, "find_spec", lambda name: object())
    engines: list[VllmEngine] = []

    def start_one(name: str = "model", *, tied: bool = False, **settings: Any) -> VllmEngine:
        settings = {"dtype": "float32", "max_model_len": 16, "log_file": tmp_path / "logs" / "engine.log"} | settings
        folder = tmp_path / name if "weights" in settings else save_model(tmp_path / name, tied=tied)
        engines.append(FakeEngine(folder, **settings))
        return engines[-1]

    yield start_one
    for engine in engines:
        engine.close()


def ask(seed: int = 0, *, max_new_tokens: int = 3) -> Request:
    return Request(prompt_ids=(3, 4, 5), seed=seed, max_new_tokens=max_new_tokens)


def generate(engine: VllmEngine, *requests: Request) -> Any:
    return asyncio.run(engine.generate(requests))


def has_ended(process: int, *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{process}/stat")
        if not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_an_exception_in_the_process_is_quoted_from_its_log(start: Callable[..., VllmEngine], tmp_path: Path):
    engine = start()
    with pytest.raises(EngineError, match=r"ended with exit code 1; .*engine\.log: .*RuntimeError: a kernel failed"):
        generate(engine, ask(2))
    with pytest.raises(EngineError, match="closed"):
        generate(engine, ask())


def test_an_exit_code_is_named(start: Callable[..., VllmEngine]):
    with pytest.raises(EngineError, match="ended with exit code 7"):
        generate(start(), ask(5))


def test_a_model_that_cannot_be_loaded_is_one_line_from_the_constructor(start: Callable[..., VllmEngine]):
    with pytest.raises(EngineError, match="ValueError: this model cannot be loaded") as caught:
        start("broken")
    assert "\n" not in str(caught.value)


def test_a_start_with_an_adapter_that_fails_names_the_other_way(start: Callable[..., VllmEngine]):
    with pytest.raises(
        EngineError, match=r"cannot be loaded; set engine\.lora: merged where vLLM cannot take the adapter"
    ):
        start("broken", adapter={"q_proj.lora_A.weight": (2, 4)})


def test_a_start_that_hangs_is_killed(start: Callable[..., VllmEngine]):
    with pytest.raises(EngineError, match=r"no answer within 0\.5 s, so it was killed"):
        start("hanging", startup_s=0.5)


def test_a_call_that_hangs_is_killed(start: Callable[..., VllmEngine]):
    engine = start(timeout_s=0.3)
    process = engine.process_id
    with pytest.raises(EngineError, match=r"no answer within 0\.3 s, so it was killed"):
        generate(engine, ask(1))
    assert has_ended(process, within_s=30)


def test_closing_ends_a_call_in_flight_and_the_process(start: Callable[..., VllmEngine]):
    engine = start()
    process = engine.process_id

    async def close_meanwhile() -> None:
        call = asyncio.create_task(engine.generate([ask(1)]))
        await asyncio.sleep(0.2)
        engine.close()
        with pytest.raises(EngineError, match="it was closed while it worked"):
            await call

    asyncio.run(close_meanwhile())
    assert has_ended(process, within_s=30)


def test_an_answer_with_another_version_is_refused(start: Callable[..., VllmEngine]):
    engine = start(version=4)
    assert generate(engine, ask())[0].policy_version == 4
    with pytest.raises(SyncError, match="answered with version 6, wanted version 4"):
        generate(engine, ask(3))


def test_logprobs_that_are_not_numbers_are_refused(start: Callable[..., VllmEngine]):
    with pytest.raises(EngineError, match="not finite"):
        generate(start(), ask(4))


def test_an_answer_larger_than_any_buffer_arrives_whole(start: Callable[..., VllmEngine]):
    completion = generate(start(), ask(6, max_new_tokens=300_000))[0]
    assert completion.token_ids == (3, 4, 5) * 100_000
    assert completion.stop is StopReason.LENGTH


def test_weights_arrive_in_the_engines_dtype_and_a_tied_head_is_not_asked_for(start: Callable[..., VllmEngine]):
    engine = start(tied=True, dtype="bfloat16")
    engine.update([("b", torch.full((2, 3), 1.001)), ("a", torch.tensor([3.0, 4.5]))], version=1)
    assert asyncio.run(engine.score([])) == [[7.5], [6.0]]  # 1.001 rounds to 1 in bfloat16
    engine.update([("a", torch.tensor([0.0, 1.0])), ("b", torch.ones(2, 3))], version=2)
    assert asyncio.run(engine.score([])) == [[1.0], [6.0]]
    assert engine.policy_version == 2


def test_what_an_engine_begins_with_lies_in_its_memory_before_it_starts(start: Callable[..., VllmEngine]):
    begins = {"b": torch.full((2, 3), 1.001), "a": torch.tensor([3.0, 4.5])}
    engine = start(weights=iter(begins.items()), dtype="bfloat16")
    assert asyncio.run(engine.score([])) == [[7.5], [6.0]]  # of a and b; no folder is there
    engine.update((begins | {"a": torch.ones(2)}).items(), version=1)
    assert asyncio.run(engine.score([])) == [[2.0], [6.0]]
    assert os.fstat(engine._sender.descriptor).st_size > 0
    with pytest.raises(EngineError, match="an update lacks 1 weights, first: b"):
        engine.update([("a", torch.ones(2))], version=2)


def test_where_weights_are_lent_the_memory_of_the_start_is_given_back(start: Callable[..., VllmEngine]):
    engine = start(weights=WEIGHTS.items(), settings=Settings(lends=True))
    assert os.fstat(engine._sender.descriptor).st_size == 0


@pytest.mark.usefixtures("start")
def test_a_run_starts_vllm_with_the_policys_weights_and_writes_none_of_them(tmp_path: Path, monkeypatch: Any):
    """The folder holds config and tokenizer; the sums that the engine reads in its memory are those of the policy."""
    monkeypatch.setattr(build, "VllmEngine", FakeEngine)
    recipe = read_recipe("smoke/char-addition", ["rollouts.engine=vllm", "model.dtype=float32"])
    lora = Lora(rank=2, target_modules=("lm_head", "q_proj"))
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"lora": lora})})
    policy = build.build_policy(recipe, Group())
    engine: Any = build.build_engine(recipe, policy, tmp_path, Group(), log_file=tmp_path / "log")
    try:
        said = asyncio.run(engine.score([]))
        own = {name: tensor.double().sum().item() for name, tensor in named_policy_weights(policy.model)}
        assert said == [[own[name]] for name in sorted(own)]
        assert sorted(file.suffix for file in (tmp_path / "initial-model").iterdir() if file.is_file()) == [".json"] * 4
        config = json.loads((tmp_path / "initial-model" / "config.json").read_text())
        assert (config["architectures"], config["tie_word_embeddings"]) == (["LlamaForCausalLM"], False)
    finally:
        engine.close()


@pytest.mark.usefixtures("start")
def test_a_run_with_two_replicas_starts_two_processes_on_one_memory_that_take_every_update(
    tmp_path: Path, monkeypatch: Any
):
    monkeypatch.setattr(build, "VllmEngine", FakeEngine)
    recipe = read_recipe("smoke/char-addition", ["rollouts.engine=vllm", "model.dtype=float32", "engine.replicas=2"])
    policy = build.build_policy(recipe, Group())
    fleet: Any = build.build_engine(recipe, policy, tmp_path, Group(), log_file=tmp_path / "engine.log")
    try:
        first, second = fleet._replicas.present()
        assert first.process_id != second.process_id
        assert first._sender is second._sender
        assert sorted(path.name for path in tmp_path.glob("*.log")) == ["engine-1.log", "engine-2.log"]
        weights = {name: tensor + 1 for name, tensor in named_policy_weights(policy.model)}
        fleet.update(weights.items(), version=3)
        sums = [[weights[name].double().sum().item()] for name in sorted(weights)]
        for replica in (first, second):
            assert asyncio.run(replica.score([])) == sums
            assert replica.policy_version == 3
        said = asyncio.run(fleet.generate([ask(number) for number in (0, 7)]))
        assert [one.versions for one in said] == [((0, 3),)] * 2
    finally:
        fleet.close()
    assert has_ended(first.process_id, within_s=30)
    assert has_ended(second.process_id, within_s=30)


def test_a_weight_that_comes_twice_is_refused(start: Callable[..., VllmEngine]):
    with pytest.raises(EngineError, match="brings a, twice"):
        start().update([*WEIGHTS.items(), *WEIGHTS.items()], version=1)


def test_without_vllm_the_error_names_the_command_and_the_other_engine(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(vllm_process, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"not installed; run: make setup .*rollouts\.engine: hf"):
        VllmEngine(tmp_path, dtype="float32", max_model_len=16, log_file=tmp_path / "log")


def test_a_folder_without_weights_is_a_clear_error(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(vllm_process, "find_spec", lambda name: object())
    with pytest.raises(EngineError, match=r"no \*\.safetensors in"):
        VllmEngine(tmp_path, dtype="float32", max_model_len=16, log_file=tmp_path / "log")


def test_the_process_stays_out_of_the_launchers_group_and_sees_its_ranks_gpu(monkeypatch: Any):
    launcher = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_PORT": "29500", "ROLE_WORLD_SIZE": "8"}
    launcher |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "ACCELERATE_MIXED_PRECISION": "no"}
    for name, value in (launcher | {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environment = vllm_process.environment(threads=3, memory_gib=2)
    assert not (launcher.keys() | {"PYTORCH_CUDA_ALLOC_CONF"}) & environment.keys()
    assert (environment["OMP_NUM_THREADS"], environment["VLLM_CPU_KVCACHE_SPACE"]) == ("3", "2")
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")  # the user's own word
    assert "PYTORCH_CUDA_ALLOC_CONF" in vllm_process.environment(threads=3, memory_gib=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert vllm_process.environment(threads=3, memory_gib=2)["CUDA_VISIBLE_DEVICES"] == "6"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # GPUs are hidden on purpose
    assert vllm_process.environment(threads=3, memory_gib=2)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("thread", ["main", "other"])
def test_a_killed_trainer_leaves_no_engine_behind(tmp_path: Path, thread: str):
    """Also when the engine is busy. The kernel tells it when the main thread started it, else its socket does."""
    save_model(tmp_path / "model")
    script = f"""
        import asyncio, sys, threading
        from pathlib import Path
        from alignkit.engines.vllm import engine as vllm
        from alignkit.engines.vllm import process as vllm_process
        from alignkit.types.rollout import Request

        vllm_process.find_spec = lambda name: object()
        vllm.VllmEngine.command = (sys.executable, {str(WORKER)!r})

        def run():
            folder = Path({str(tmp_path)!r})
            engine = vllm.VllmEngine(
                folder / "model", dtype="float32", max_model_len=16, log_file=folder / "log"
            )
            print(engine.process_id, flush=True)
            asyncio.run(engine.generate([Request(prompt_ids=(3,), seed=1, max_new_tokens=1)]))

        if {thread!r} == "main":
            run()
        else:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
    """
    trainer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    engine = int(trainer.stdout.readline())
    time.sleep(0.2)
    assert not has_ended(engine, within_s=0.1)
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait()
    trainer.stdout.close()
    assert has_ended(engine, within_s=30)
