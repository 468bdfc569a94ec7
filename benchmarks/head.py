"""Log-probs from hidden states, forward and backward: our chunked head, full logits, and TRL's fused head.

python -m benchmarks.head
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.calibrate import calibrate
from benchmarks.results import Result, Table, this_machine
from benchmarks.side import Side, SideDied

TOKENS, WIDTH, VOCABULARY = 4096, 576, 49152  # SmolLM2-135M
ROUNDS = {"bfloat16": 7, "float32": 3}
MEMORY_TARGET, TIME_TARGET = 1 / 8, 1.1  # of full logits
HEADS = {"chunked": "alignkit", "full": "full logits", "trl": "TRL fused head"}
ALLOCATORS = {False: "glibc", True: "glibc, freed memory kept"}
TOLERANCE = {"float32": 1e-6, "bfloat16": 1e-3}  # 1 - cosine of the gradients with those of full logits in float32


def measure() -> Result:
    """Each head and dtype in fresh processes: peak memory of the first run, then times in turns."""
    machine, calibrations, rows, raw = this_machine(), [calibrate()], [], {}
    for dtype, kept in (("bfloat16", False), ("bfloat16", True), ("float32", False)):
        peaks = {head: _alone(head, dtype, kept, "peak") for head in HEADS}
        errors = {head: _alone(head, dtype, kept, "error") for head in HEADS}
        times = _times(dtype, kept)
        calibrations.append(calibrate())
        raw[f"{dtype}, {ALLOCATORS[kept]}"] = {"peak_bytes": peaks, "seconds": times, "error": errors}
        rows += [_row(head, dtype, kept, peaks, times, errors) for head in HEADS]
    return Result(
        order=2,
        name="head",
        title="The log-prob head",
        machine=machine,
        tables=[
            Table(
                caption=f"{TOKENS} tokens, vocabulary {VOCABULARY}, width {WIDTH}; forward and backward to hidden "
                f"states and weight; times are medians of {ROUNDS['bfloat16']} turns ({ROUNDS['float32']} in float32)",
                columns=["head", "dtype", "allocator", "peak MB", "/ full", "seconds", "/ full", "gradients"],
                rows=rows,
            )
        ],
        notes=[
            f"Target: at most {MEMORY_TARGET:g} of the memory of full logits, at most {TIME_TARGET:g} of their time.",
            "Peak: beyond the inputs, the gradients' own memory included. Ours and TRL's also compute the entropy. "
            "Gradients: 1 - cosine with those of full logits in float32. With freed memory kept (as in our runs) full "
            "logits do not wait for the kernel to zero their pages; computing the logits a second time is then a "
            "fourth matrix product beside their three.",
        ],
        calibrations=calibrations,
        raw=raw,
    )


def _alone(head: str, dtype: str, kept: bool, command: str) -> float:
    with tempfile.TemporaryDirectory() as folder, closing(_start(head, dtype, kept, Path(folder))) as side:
        return side(command).value


def _times(dtype: str, kept: bool) -> dict[str, list[float]]:
    times = {head: [] for head in HEADS}
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory()))
        sides = {head: resources.enter_context(closing(_start(head, dtype, kept, folder))) for head in HEADS}
        for side in sides.values():
            side("time")
        for _ in range(ROUNDS[dtype]):
            for head, side in sides.items():
                times[head].append(side("time").value)
    return times


def _start(head: str, dtype: str, kept: bool, folder: Path) -> Side:
    return Side(serve, head, dtype, kept, name=f"{HEADS[head]}, {dtype}", log_file=folder / f"{head}.log")


def _row(head: str, dtype: str, kept: bool, peaks: dict, times: dict, errors: dict) -> Sequence[str]:
    memory = peaks[head] / peaks["full"]
    duration = statistics.median(mine / full for mine, full in zip(times[head], times["full"], strict=True))
    ours = head == "chunked"
    return [
        HEADS[head],
        dtype,
        ALLOCATORS[kept],
        f"{peaks[head] / 1e6:.0f}",
        f"{memory:.3f}" + (" **missed**" if ours and memory > MEMORY_TARGET else ""),
        f"{statistics.median(times[head]):.2f}",
        f"{duration:.2f}" + (" **missed**" if ours and duration > TIME_TARGET else ""),
        f"{max(errors[head], 0):.0e}" + (" **wrong**" if errors[head] > TOLERANCE[dtype] else ""),
    ]


def serve(connection: Connection, head: str, dtype: str, kept: bool) -> None:
    """Commands: `peak`, bytes beyond the inputs; `time`, seconds; `error`, of the gradients on 512 tokens."""
    import torch

    from alignkit.run.train.memory import keep_freed_memory

    if kept:
        keep_freed_memory()
    logprobs = _heads()[head]
    inputs = _inputs(TOKENS, getattr(torch, dtype))
    connection.send("ready")
    while True:
        match connection.recv():
            case "peak":
                _gradients(logprobs, *_inputs(16, getattr(torch, dtype)))  # libraries load their code now
                ctypes.CDLL(None).malloc_trim(0)  # memory that is kept but free does not count as present
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from the present size
                before = _status("VmRSS")
                _gradients(logprobs, *inputs)
                connection.send(_status("VmHWM") - before)
            case "time":
                begun = time.perf_counter()
                _gradients(logprobs, *inputs)
                connection.send(time.perf_counter() - begun)
            case "error":
                small = _inputs(512, getattr(torch, dtype))
                exact = _gradients(_heads()["full"], *(x.float() if x.is_floating_point() else x for x in small))
                connection.send(1 - _cosine(_gradients(logprobs, *small), exact))


def _heads() -> dict[str, Callable[..., Any]]:
    """(hidden, weight, targets) -> log-probs."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    from alignkit.models.forward import HEAD_ROWS
    from alignkit.ops.logprobs import chunked_logprobs

    def full(hidden: Any, weight: Any, targets: Any) -> Any:
        return (hidden @ weight.t()).float().log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)

    def fused(hidden: Any, weight: Any, targets: Any) -> Any:
        arguments = (None, targets, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("log_probs", "entropy"))
        return ChunkedLogProbFunction.apply(hidden, weight, *arguments)[0]

    return {"chunked": lambda *x: chunked_logprobs(*x, rows=HEAD_ROWS["cpu"])[0], "full": full, "trl": fused}


def _inputs(tokens: int, dtype: Any) -> tuple[Any, ...]:
    """Hidden states, weight, targets and the gradient of the log-probs; the logits have a standard deviation of 3."""
    import torch

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, generator=generator).to(dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).mul_(3 / WIDTH**0.5).to(dtype)
    targets = torch.randint(VOCABULARY, (tokens,), generator=generator)
    return hidden, weight, targets, torch.randn(tokens, generator=generator) / tokens


def _gradients(logprobs: Callable[..., Any], hidden: Any, weight: Any, targets: Any, grad: Any) -> tuple[Any, ...]:
    import torch

    leaves = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    return torch.autograd.grad(logprobs(*leaves, targets), leaves, grad)


def _cosine(ours: Sequence[Any], exact: Sequence[Any]) -> float:
    """The smaller of the cosines of the two gradients."""
    from torch.nn.functional import cosine_similarity

    return min(
        float(cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))
        for a, b in zip(ours, exact, strict=True)
    )


def _status(name: str) -> int:
    """Bytes of an entry of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    try:
        print(measure().save())
    except SideDied as death:
        sys.exit(str(death))


if __name__ == "__main__":
    main()
