"""What vLLM is started with on each platform, and which of its arguments a recipe may set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from alignkit.engines.vllm.arguments import (
    Platform,
    Settings,
    adapter_arguments,
    engine_arguments,
    keeps_prefixes,
)
from alignkit.engines.vllm.process import environment
from alignkit.errors import EngineError, RecipeError
from alignkit.recipe.lookup.vllm_options import ADAPTER_RANKS, OURS, broken_options
from alignkit.recipe.lookup.vllm_options import engine_arguments as known_arguments
from alignkit.recipe.read import read_recipe
from tests.contracts.test_engines import tiny_llama

ON_CUDA = Path(__file__).parents[1] / "contracts" / "vllm_on_cuda.py"
CPU, H100 = Platform(cpu=True), Platform(cpu=False, device_bytes=80 * 10**9)
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")


def chosen(platform: Platform, *, weight_bytes: int = 10**9, **settings: Any) -> dict[str, Any]:
    return engine_arguments(platform, Settings(**settings), max_model_len=512, weight_bytes=weight_bytes)


def test_on_a_cpu_the_work_arounds_stay_whatever_is_asked_of_a_gpu():
    work_arounds = {
        "max_model_len": 512,
        "enable_prefix_caching": True,
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 256,
        "block_size": 32,
    }
    assert chosen(CPU) == work_arounds
    assert chosen(CPU, sleeps=True, deterministic=True, memory_fraction=0.3) == work_arounds
    assert engine_arguments(CPU, Settings(), max_model_len=9000, weight_bytes=0)["max_num_batched_tokens"] == 9000


def test_on_a_gpu_vllm_chooses_and_sleep_mode_is_on_only_where_it_sleeps():
    assert chosen(H100) == {"max_model_len": 512, "enable_prefix_caching": True, "gpu_memory_utilization": 0.45}
    assert chosen(H100, sleeps=True) == chosen(H100) | {"enable_sleep_mode": True}


def test_a_fixed_cache_is_three_quarters_of_what_the_weights_leave_of_the_share():
    given = chosen(H100, deterministic=True, memory_fraction=0.5, weight_bytes=16 * 10**9)
    assert given["kv_cache_memory_bytes"] == 18 * 10**9
    own = {"kv_cache_memory_bytes": 7}
    assert chosen(H100, deterministic=True, options=own)["kv_cache_memory_bytes"] == 7
    with pytest.raises(EngineError, match=r"share of 40\.0 GB does not hold the weights of 41\.0 GB; raise rollouts"):
        chosen(H100, deterministic=True, memory_fraction=0.5, weight_bytes=41 * 10**9)


def test_an_adapter_gets_a_place_in_layers_of_its_names_and_of_the_next_rank_that_vllm_has():
    shapes = {
        "model.layers.0.mlp.up_proj.lora_A.weight": (12, 64),
        "model.layers.0.mlp.up_proj.lora_B.weight": (96, 12),
    }
    shapes |= {
        "model.layers.1.attn.q_proj.lora_A.weight": (12, 64),
        "model.layers.1.attn.q_proj.lora_B.weight": (64, 12),
    }
    layers = {"enable_lora": True, "max_loras": 1, "max_lora_rank": 16, "lora_target_modules": ["q_proj", "up_proj"]}
    assert adapter_arguments(shapes) == layers
    assert adapter_arguments({"q_proj.lora_A.weight": (1, 4)})["max_lora_rank"] == 1
    assert adapter_arguments({}) == {}
    assert sorted(ADAPTER_RANKS) == list(ADAPTER_RANKS), "the last is the largest"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model.lora": None}, "there is no `model.lora`"),
        ({"rollouts.engine": "hf"}, "`rollouts.engine` is not vllm"),
        ({"model.lora.dora": "true"}, "vLLM has no DoRA"),
        (
            {"model.lora.modules_to_save": "[norm]"},
            r"norm is trained whole \(`model\.lora\.modules_to_save`\), which no",
        ),
        ({"model.lora.rank": "1024"}, "vLLM takes ranks up to 512; got 1024"),
    ],
)
def test_a_recipe_whose_adapter_cannot_travel_by_itself_is_refused_with_the_cure(changes: dict[str, Any], problem: str):
    wanted = {"model.lora": "{rank: 8}", "rollouts.engine": "vllm", "engine.lora": "adapter"} | changes
    given = [f"{key}={value}" for key, value in wanted.items() if value is not None]
    with pytest.raises(RecipeError, match=rf"engine\.lora.*`adapter` cannot be: {problem}.*; set it to `merged`"):
        read_recipe("smoke/char-addition", given)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            ("rollouts.engine=hf", "engine.replicas=2"),
            r"engine\.replicas.*the hf engine is one; set rollouts",
        ),
        (("rollouts.engine=hf", "engine.tensor_parallel=2"), r"engine\.tensor_parallel.*on one device; set rollouts"),
        (
            ("engine.placement=servers", "engine.listen=localhost"),
            r"engine\.listen.*localhost is no address; wanted HOST:PORT",
        ),
        (("engine.listen=127.0.0.1:65536",), r"127\.0\.0\.1:65536 is no address; .* a port of 0 to 65535"),
        (("rollouts.engine=hf", "engine.placement=own"), r"engine\.placement.*is on the trainer's device; set `coloc"),
        (
            ("rollouts.engine=vllm", "model.lora={rank: 8}", "engine.lora=adapter", "engine.placement=servers"),
            r"engine\.lora.*servers take whole weights; set it to `merged`",
        ),
        (
            ("engine.placement=servers", "engine.key=k.pem"),
            r"key.*`certificate` and `key` belong together; give both",
        ),
    ],
)
def test_replicas_that_cannot_be_are_refused_with_the_cure(changes: tuple[str, ...], problem: str):
    with pytest.raises(RecipeError, match=problem):
        read_recipe("smoke/char-addition", changes)
    read_recipe("smoke/char-addition", ["rollouts.engine=hf", "engine.placement=servers", "engine.replicas=2"])
    read_recipe("smoke/char-addition", ["rollouts.engine=vllm", "engine.placement=own", "engine.replicas=2"])


def test_several_workers_are_processes_of_vllms_and_weights_are_not_lent_to_them():
    own = {"tensor_parallel_size": 4, "distributed_executor_backend": "mp"}
    assert chosen(CPU, tensor_parallel=4) == chosen(CPU) | own
    assert chosen(H100, tensor_parallel=4) == chosen(H100) | own
    with pytest.raises(EngineError, match=r"do not reach 4 workers; set engine\.transport: host"):
        chosen(H100, tensor_parallel=4, lends=True)


def test_threads_are_shared_out_among_workers_and_each_has_one():
    threads = {n: environment(6, 2, workers=n)["OMP_NUM_THREADS"] for n in (1, 2, 4, 8)}
    assert threads == {1: "6", 2: "3", 4: "1", 8: "1"}


def test_options_that_cut_a_model_are_refused_with_the_key_that_does():
    problems = dict(broken_options({"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "worker_cls": "mine"}))
    assert problems["tensor_parallel_size"] == "is set by `engine.tensor_parallel`; set that; remove this"
    assert "otherwise than `engine.tensor_parallel`" in problems["pipeline_parallel_size"]
    assert problems["worker_cls"].startswith("is alignkit's own")


def test_options_replace_what_is_chosen():
    assert chosen(CPU, options={"block_size": 64})["block_size"] == 64
    assert chosen(H100, options={"max_num_seqs": 32, "enforce_eager": True}).items() >= {"max_num_seqs": 32}.items()


def test_prefixes_outlive_a_call_only_where_its_bits_may_depend_on_the_one_before():
    assert [keeps_prefixes(CPU, Settings()), keeps_prefixes(CPU, Settings(deterministic=True))] == [False, False]
    assert [keeps_prefixes(H100, Settings()), keeps_prefixes(H100, Settings(deterministic=True))] == [True, False]


@pytest.mark.slow  # importing vLLM
@needs_vllm
def test_vllms_arguments_are_read_from_its_source_as_its_class_has_them():
    fields_of = "print(json.dumps([field.name for field in dataclasses.fields(EngineArgs)]))"
    script = f"import dataclasses, json; from vllm.engine.arg_utils import EngineArgs; {fields_of}"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    fields = {name for name in json.loads(out.splitlines()[-1]) if not name.startswith("_")}
    assert known_arguments() == fields
    assert fields >= OURS.keys()


@needs_vllm
def test_an_unknown_option_names_the_nearest_and_one_of_alignkits_own_its_reason():
    problems = dict(broken_options({"max_num_sequences": 4, "seed": 3, "trust_remote_code": True, "max_num_seqs": 8}))
    assert problems["max_num_sequences"].startswith("is no argument of vLLM's engine (did you mean 'max_num_seqs'")
    assert problems["seed"] == "is the recipe's; set `seed`; remove this"
    assert "never does" in problems["trust_remote_code"]
    assert problems.keys() == {"max_num_sequences", "seed", "trust_remote_code"}


def test_a_recipe_with_a_refused_option_does_not_start(tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: smoke/char-addition\nengine:\n  options:\n    dtype: float16\n")
    with pytest.raises(RecipeError, match=r"engine\.options\.dtype.* is the trainer's arithmetic; set `model\.dtype`"):
        read_recipe(recipe)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_llama(0).save_pretrained(folder)
    return folder


def on_cuda(folder: Path, keywords: dict[str, Any], **environment: str) -> dict[str, Any]:
    given = {"skip_tokenizer_init": True, "dtype": "bfloat16", "logprobs_mode": "processed_logprobs", **keywords}
    given["max_model_len"] = 128
    result = subprocess.run(
        [sys.executable, str(ON_CUDA), str(folder), json.dumps(given)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@needs_vllm
def test_vllm_takes_these_arguments_on_an_h100_and_finds_its_best_kernels(folder: Path):
    made = on_cuda(folder, chosen(H100, sleeps=True))
    assert made["kernels"] == {
        "bfloat16 grouped": ["FLASH_ATTN", []],
        "bfloat16 latent": ["FLASH_ATTN_MLA", []],
        "float32 grouped": ["TRITON_ATTN", []],
        "float32 latent": [None, []],  # vLLM has none
    }
    assert (made["eager"], made["graphs"], made["chunked"]) == (False, "FULL_AND_PIECEWISE", True)
    assert (made["prefixes"], made["block"], made["cache_bytes"], made["sleeps"]) == (True, None, None, True)


@pytest.mark.slow
@needs_vllm
def test_vllm_takes_the_arguments_of_a_deterministic_run_on_an_h100(folder: Path):
    keywords = chosen(H100, deterministic=True)
    made = on_cuda(folder, keywords, VLLM_BATCH_INVARIANT="1")
    assert made["cache_bytes"] == keywords["kv_cache_memory_bytes"] == int(0.75 * (36 * 10**9 - 10**9))
    assert {name: kernel for name, (kernel, _) in made["kernels"].items()} == {
        "bfloat16 grouped": "FLASH_ATTN",
        "bfloat16 latent": "FLASH_ATTN_MLA",
        "float32 grouped": "TRITON_ATTN",
        "float32 latent": None,
    }
    assert not made["sleeps"]


@pytest.mark.slow
@needs_vllm
def test_vllm_takes_the_arguments_of_an_adapter_on_an_h100_and_keeps_its_graphs(folder: Path):
    shapes = {
        "model.layers.0.mlp.up_proj.lora_A.weight": (12, 64),
        "model.layers.0.mlp.up_proj.lora_B.weight": (96, 12),
    }
    made = on_cuda(folder, chosen(H100, sleeps=True) | adapter_arguments(shapes))
    assert (made["adapter_rank"], made["adapter_dtype"], made["adapter_layers"]) == (16, "torch.bfloat16", ["up_proj"])
    assert (made["eager"], made["graphs"], made["sleeps"]) == (False, "FULL_AND_PIECEWISE", True)
    assert made["kernels"]["bfloat16 grouped"] == ["FLASH_ATTN", []]


@pytest.mark.slow
@needs_vllm
def test_blocks_of_the_cpu_cost_latent_attention_its_kernels_on_an_h100(folder: Path):
    """Why the CPU's block size must not reach a GPU."""
    kernels = on_cuda(folder, chosen(H100, options={"block_size": 32}))["kernels"]
    assert "FLASHMLA" in kernels["bfloat16 latent"][1]
