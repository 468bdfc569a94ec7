"""What a recipe may say of the process that samples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveFloat

from alignkit.recipe.schema.section import Section


class EngineProcess(Section):
    """vLLM's process, one for the whole run. Its memory is `gpu_memory_fraction` or `memory_gib` of `rollouts`."""

    options: dict[str, Any] = {}
    """Arguments of vLLM's EngineArgs by name, `max_num_seqs: 64`, say; they replace what is chosen for the platform."""
    transport: Literal["auto", "host"] = "auto"
    """`auto` lends the weights to vLLM on a GPU that both use (CUDA IPC); `host` copies them through shared memory."""
    lora: Literal["merged", "adapter"] = "merged"
    """`merged` sends vLLM the whole model with the adapter's work in its weights; `adapter` the base once and then the
    adapter's matrices alone, with which vLLM computes as the trainer does."""
    startup_s: PositiveFloat = 900.0
    """Seconds in which it must be ready: loading, and on a GPU compiling and capturing graphs."""
    sleep: bool = True
    """On a GPU: gives its memory to the trainer while that trains. The weights are pushed again at each waking."""
