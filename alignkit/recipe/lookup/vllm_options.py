"""Which of vLLM's engine arguments a recipe may set, read from vLLM's own source without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from alignkit.recipe.lookup.find import did_you_mean
from alignkit.recipe.lookup.outline import module_file
from alignkit.types.syntax import parsed

MODEL = "names the model, which is the recipe's; set `model`"
WORKERS = "is set by `engine.tensor_parallel`; set that"
OTHER_CUTS = "would cut or repeat the model otherwise than `engine.tensor_parallel` does, which no update could prove"
OUR_WORKER = "is alignkit's own, which loads and proves the weights"
PROVEN = "would have the engine compute with other weights than the trainer sends, which no update could prove"
ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM 0.32 has places for
ADAPTER = "follows from the recipe's adapter; set `engine.lora`"

OURS = {
    **dict.fromkeys(("model", "tokenizer", "skip_tokenizer_init", "revision", "tokenizer_revision"), MODEL),
    **dict.fromkeys(("runner", "convert", "hf_overrides", "hf_config_path", "model_weights", "load_format"), MODEL),
    "trust_remote_code": "would run code that comes with a model, which alignkit never does",
    "code_revision": "would run code that comes with a model, which alignkit never does",
    "dtype": "is the trainer's arithmetic; set `model.dtype`",
    "seed": "is the recipe's; set `seed`",
    "max_model_len": "follows from `data.max_prompt_tokens` and `rollouts.max_new_tokens`; set these",
    "gpu_memory_utilization": "is set by `rollouts.gpu_memory_fraction`; set that",
    "enable_sleep_mode": "is set by `engine.sleep`; set that",
    "weight_transfer_config": "is chosen by where trainer and engine run",
    "logprobs_mode": "decides what the sampler's log-probs mean, which the losses rely on",
    "logits_processors": "would sample from another distribution than the trainer computes",
    **dict.fromkeys(("enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank", "lora_dtype"), ADAPTER),
    **dict.fromkeys(("lora_target_modules", "fully_sharded_loras", "default_mm_loras"), ADAPTER),
    **dict.fromkeys(("quantization", "quantization_config"), PROVEN),
    **dict.fromkeys(("worker_cls", "worker_extension_cls", "model_loader_extra_config"), OUR_WORKER),
    **dict.fromkeys(("tensor_parallel_size", "distributed_executor_backend"), WORKERS),
    **dict.fromkeys(("pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel"), OTHER_CUTS),
    **dict.fromkeys(("prefill_context_parallel_size", "nnodes"), OTHER_CUTS),
}
"""Engine arguments that alignkit itself sets, with the reason that the refusal gives."""


def broken_options(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(option, what is wrong with it). Where vLLM is not installed, unknown names are left to its own start."""
    known = engine_arguments()
    for name in options:
        if name in OURS:
            yield name, f"{OURS[name]}; remove this"
        elif known is not None and name not in known:
            yield name, f"is no argument of vLLM's engine{did_you_mean(name, known)}; see EngineArgs of vLLM"


def engine_arguments() -> frozenset[str] | None:
    """The public fields of the installed vLLM's EngineArgs; None where vLLM is not installed."""
    file = module_file("vllm.engine.arg_utils")
    return None if file is None else _fields(file)


@cache
def _fields(file: Path) -> frozenset[str]:
    for node in parsed(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            named = (each.target for each in node.body if isinstance(each, ast.AnnAssign))
            return frozenset(t.id for t in named if isinstance(t, ast.Name) and not t.id.startswith("_"))
    return frozenset()
