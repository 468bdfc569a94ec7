"""The battery's parts in the order in which they run; first the trainer's half, without vLLM and recipes."""

from __future__ import annotations

from benchmarks.gpu import numbers, runs, speed
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
    Part(name="memory model", about="peak memory against what `check` says", missing="check --device is not built yet"),
    Part(name="sleep and wake", about="memory given back, seconds", missing="the engine is never put to sleep yet"),
    Part(name="sync on one card", about="seconds over CUDA IPC", missing="weights go through host memory as yet"),
)
