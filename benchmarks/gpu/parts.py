"""The battery's parts in the order in which they run; first the trainer's half, without vLLM and recipes."""

from __future__ import annotations

from benchmarks.gpu import engines, numbers, runs, speed
from benchmarks.gpu.part import Part

TRAINER = ("torch", "transformers", "jaxtyping", "numpy")
WHOLE = (*TRAINER, "pydantic", "ruamel", "typer", "rich", "datasets", "peft")

PARTS = (
    Part(name="attention", about="packed against plain, bfloat16 and float32", needs=TRAINER, work=numbers.attention),
    Part(name="head", about="chunked head against full logits", needs=TRAINER, work=numbers.head),
    Part(name="update", about="step time, MFU, head's share, memory", needs=TRAINER, work=speed.update),
    Part(name="experts", about="a mixture's layer in half precision", needs=TRAINER, work=speed.experts),
    Part(name="losses", about="all algorithm settings against the CPU", needs=(*WHOLE, "pytest"), work=numbers.losses),
    Part(name="engine", about="vLLM's start, a weight sync with proof", needs=(*WHOLE, "vllm"), work=runs.engine),
    Part(name="adapter", about="an adapter by itself", needs=(*WHOLE, "vllm"), work=runs.adapter, limit_s=180),
    Part(name="resume", about="kill -9 and resume", needs=WHOLE, work=runs.resume, limit_s=180),
    Part(name="memory model", about="an update's peak memory against what `check --device` counts", needs=WHOLE,
         work=numbers.memory),
    Part(name="sleep and wake", about="memory given back, seconds", needs=(*WHOLE, "vllm"), work=engines.sleep,
         card_only="on a CPU vLLM does not sleep"),
    Part(name="sync on one card", about="seconds over CUDA IPC and through the host", needs=(*WHOLE, "vllm"),
         work=engines.sync, limit_s=180),
)  # fmt: skip
