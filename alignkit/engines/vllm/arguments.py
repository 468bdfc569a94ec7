"""What vLLM's engine is started with, by platform. Pure: facts and settings in, keywords of vLLM's EngineArgs out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from alignkit.errors import EngineError
from alignkit.recipe.lookup.vllm_options import ADAPTER_RANKS

WORKER, LOADER = "alignkit.engines.vllm.sink.Sink", "alignkit"  # names under which vLLM finds ours
CPU_BLOCK_TOKENS = 32  # smallest that vLLM's CPU attention allows: more of a short prompt is shared within its group
CPU_SEQUENCES = 256
CPU_BATCHED_TOKENS = 8192
CACHE_SHARE = 0.75  # of what weights leave of the engine's share, where the cache is fixed: the rest is activations


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Where the engine runs. device_bytes: the accelerator's whole memory, 0 on a CPU."""

    cpu: bool
    device_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a recipe says of the engine. memory_fraction: its share of an accelerator. sleeps: whether it gives its
    memory back between calls. lends: whether the trainer lends it weights on a card that they share, instead of copying
    them through the host. deterministic: whether a call's bits depend on nothing but the call. tensor_parallel: workers
    among which each layer is cut. options: vLLM's own arguments, which replace what is chosen here. Raises EngineError
    when weights are to be lent to several workers.
    """

    memory_fraction: float = 0.45
    sleeps: bool = False
    lends: bool = False
    deterministic: bool = False
    tensor_parallel: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.lends and self.tensor_parallel > 1:
            raise EngineError(
                f"vllm engine: weights lent on one card do not reach {self.tensor_parallel} workers; "
                "set engine.transport: host, or engine.tensor_parallel: 1"
            )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def engine_arguments(
    platform: Platform, settings: Settings, *, max_model_len: int, weight_bytes: int
) -> dict[str, Any]:
    """Keywords of EngineArgs besides the model. weight_bytes: of the engine's copy of the weights.

    On a CPU vLLM's own choices do not do: it cannot take back a draw from a request's own random generator ("CPU
    Generator does not use offset"), which it does after each piece of a prompt but the last, so a prompt is read in one
    piece; and its blocks of 128 tokens share nothing of a short prompt. On a GPU vLLM chooses: graphs, chunked prefill,
    blocks by the attention kernel, sequences by the card.
    Raises EngineError when a fixed cache has no room.
    """
    chosen: dict[str, Any] = {"max_model_len": max_model_len, "enable_prefix_caching": True}
    if settings.tensor_parallel > 1:
        chosen |= {"tensor_parallel_size": settings.tensor_parallel, "distributed_executor_backend": "mp"}
    if settings.lends:
        chosen["weight_transfer_config"] = {"backend": "ipc"}
    if platform.cpu:
        chosen |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, max_model_len),
            "max_num_seqs": CPU_SEQUENCES,
            "block_size": CPU_BLOCK_TOKENS,
        }
    else:
        chosen["gpu_memory_utilization"] = settings.memory_fraction
        if settings.sleeps:
            chosen["enable_sleep_mode"] = True
        if settings.deterministic and "kv_cache_memory_bytes" not in settings.options:
            chosen["kv_cache_memory_bytes"] = _fixed_cache(platform, settings, weight_bytes)
    return chosen | dict(settings.options)


def adapter_arguments(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Keywords of EngineArgs for one adapter whose matrices have these names and shapes; none where there is none.

    Only layers of its names get a place for one, padded to the next rank that vLLM has.
    """
    if not shapes:
        return {}
    rank = max(shape[0] for name, shape in shapes.items() if ".lora_A." in name)
    layers = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in shapes}
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": min(each for each in ADAPTER_RANKS if each >= rank),
        "lora_target_modules": sorted(layers),
    }


def keeps_prefixes(platform: Platform, settings: Settings) -> bool:
    """Whether what one call read may serve the next one, as long as the weights stay.

    A prefix out of the cache has the bits of the call that read it. So where a call must depend on nothing before it
    (always on a CPU, whose runs resume exactly; on a GPU under `deterministic`), each call begins with an empty cache.
    """
    return not platform.cpu and not settings.deterministic


def _fixed_cache(platform: Platform, settings: Settings, weight_bytes: int) -> int:
    """Bytes of the cache by the card's size: by its free memory at the start, two starts would differ."""
    share = settings.memory_fraction * platform.device_bytes
    room = share - weight_bytes
    if room <= 0:
        raise EngineError(
            f"vllm engine: its share of {share / 1e9:.1f} GB does not hold the weights of {weight_bytes / 1e9:.1f} GB; "
            "raise rollouts.gpu_memory_fraction"
        )
    return int(CACHE_SHARE * room)
