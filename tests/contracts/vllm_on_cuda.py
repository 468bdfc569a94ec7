"""vLLM's own argument checks and attention selector as on an H100, without one. Run by test_engine_arguments.py.

Only facts of the platform are patched in (capability, name, memory, and that the sleep allocator was compiled); every
decision is vLLM's. Arguments: the folder of a model and the engine's keywords as JSON. Prints JSON: what vLLM made of
them, and the attention kernel that it takes for grouped and for latent attention in each dtype.
"""

import json
import os
import sys
import types
from typing import Any

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

import torch

# compiled kernels of the CUDA build, which are looked for and not called
for extension in ("_C_stable_libtorch", "vllm_flash_attn._vllm_fa2_C", "vllm_flash_attn._vllm_fa3_C", "_flashmla_C"):
    sys.modules[f"vllm.{extension}"] = types.ModuleType(f"vllm.{extension}")

from vllm import platforms  # noqa: E402
from vllm.platforms import cuda  # noqa: E402
from vllm.platforms.interface import DeviceCapability  # noqa: E402

H100 = DeviceCapability(9, 0)
Platform: Any = cuda.NonNvmlCudaPlatform
Platform.get_device_capability = classmethod(lambda cls, device_id=0: H100)
Platform.get_device_name = classmethod(lambda cls, device_id=0: "NVIDIA H100 80GB HBM3")
Platform.get_device_total_memory = classmethod(lambda cls, device_id=0: 80 * 2**30)
Platform.is_cumem_allocator_available = lambda self: True
platforms._current_platform = Platform()

from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.v1.attention.selector import AttentionSelectorConfig  # noqa: E402


def kernel(
    block_size: int | None, *, dtype: torch.dtype, latent: bool, invariant: bool
) -> tuple[str | None, list[str]]:
    """(name of the kernel that vLLM takes, None when it has none; those it would not take for the block's size)."""
    wanted: dict[str, Any] = {"head_size": 576 if latent else 128, "dtype": dtype, "kv_cache_dtype": "auto"}
    wanted |= {"block_size": block_size, "use_mla": latent, "use_batch_invariant": invariant}
    config = AttentionSelectorConfig(**wanted)
    found, refused = Platform.get_valid_backends(device_capability=H100, attn_selector_config=config, num_heads=16)
    taken = min(found, key=lambda one: one.priority).backend.name if found else None
    return taken, [one.name for one, (_, reasons) in refused.items() if "block_size not supported" in reasons]


def main() -> None:
    folder, keywords, invariant = sys.argv[1], json.loads(sys.argv[2]), "VLLM_BATCH_INVARIANT" in os.environ
    made = EngineArgs(model=folder, **keywords).create_engine_config()
    cache, scheduler = made.cache_config, made.scheduler_config
    block = cache.block_size if cache.user_specified_block_size else None
    kinds = {
        f"{dtype} {'latent' if latent else 'grouped'}": kernel(
            block, dtype=getattr(torch, dtype), latent=latent, invariant=invariant
        )
        for dtype in ("bfloat16", "float32")
        for latent in (False, True)
    }
    adapter = made.lora_config
    told = {
        "adapter_rank": adapter and adapter.max_lora_rank,
        "adapter_dtype": adapter and str(adapter.lora_dtype),
        "adapter_layers": adapter and adapter.target_modules,
        "eager": made.model_config.enforce_eager,
        "graphs": made.compilation_config.cudagraph_mode.name,
        "chunked": scheduler.enable_chunked_prefill,
        "sequences": scheduler.max_num_seqs,
        "prefixes": cache.enable_prefix_caching,
        "block": block,
        "cache_bytes": cache.kv_cache_memory_bytes,
        "sleeps": made.model_config.enable_sleep_mode,
        "kernels": kinds,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
