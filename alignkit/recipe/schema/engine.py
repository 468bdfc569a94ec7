"""What a recipe may say of the process that samples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from alignkit.recipe.schema.section import Section


class EngineProcess(Section):
    """The processes that sample, the same for the whole run; each has `gpu_memory_fraction` or `memory_gib`."""

    replicas: PositiveInt = 1
    """Engines that share the requests, each with all the weights. Servers: as many are awaited at the start."""
    tensor_parallel: PositiveInt = 1
    """vLLM: workers among which each replica cuts its layers, a device each; it divides the attention heads."""
    placement: Literal["colocated", "own", "servers"] = "colocated"
    """Where they are: `colocated` on the trainer's devices, from its first on; `own`: on this machine's devices after
    the trainer's; `servers`: processes anywhere that `alignkit replica` starts and that register themselves."""
    listen: str = "127.0.0.1:8950"
    """Servers: address at which they find this run; port 0 takes a free one. The token is $ALIGNKIT_TOKEN."""
    certificate: str | None = None
    """Servers: PEM file, wanted with `key` where `listen` is not the loopback."""
    key: str | None = None
    """Servers: PEM file of the certificate's key."""

    options: dict[str, Any] = {}
    """Arguments of vLLM's EngineArgs by name, `max_num_seqs: 64`, say; they replace what is chosen for the platform."""
    transport: Literal["auto", "host"] = "auto"
    """`auto` lends the weights to vLLM on a GPU that both use (CUDA IPC), which a single colocated replica does; `host`
    copies them through shared memory."""
    lora: Literal["merged", "adapter"] = "merged"
    """`merged` sends vLLM the whole model with the adapter's work in its weights; `adapter` the base once and then the
    adapter's matrices alone, with which vLLM computes as the trainer does."""
    startup_s: PositiveFloat = 900.0
    """Seconds in which it must be ready: loading, and on a GPU compiling and capturing graphs."""
    sleep: bool = True
    """On a GPU, colocated: gives its memory to the trainer while that trains. The weights are pushed again at each
    waking."""
