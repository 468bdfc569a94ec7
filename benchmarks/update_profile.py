"""Where the time of our update goes: the operators that take most of it, and useful FLOP/s against the GEMM peak.

python -m benchmarks.update_profile --shape A1
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

from alignkit.types.batch import Batch
from alignkit.types.seeds import child
from benchmarks.calibrate import calibrate
from benchmarks.results import Result, Table, this_machine
from benchmarks.shapes import SHAPES, Shape

UPDATES = 3
VOCABULARY = 49152  # of SmolLM2
OPERATORS = 14
BACKWARD = 2  # FLOPs of the backward, in forwards; what is computed twice is not useful


def measure(shape: Shape) -> Result:
    """Times a few updates on random completions, then profiles one."""
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.ours import Ours

    machine = this_machine()
    ours = Ours(shape, "bfloat16")
    batch = ours.batch(_completions(shape))
    ours.update(batch)
    calibrations, seconds = [calibrate()], []
    for _ in range(UPDATES):
        begun = time.perf_counter()
        ours.update(batch)
        seconds.append(time.perf_counter() - begun)
    calibrations.append(calibrate())
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        ours.update(batch)
    update_s, flops = statistics.median(seconds), useful_flops(batch, ours.model)
    return Result(
        order=3,
        name=f"update_profile-{shape.name}",
        title=f"Where our update's time goes, shape {shape.name}",
        machine=machine,
        tables=[_efficiency(update_s, flops, calibrations, batch), _operators(profiler)],
        notes=[
            "Useful FLOPs: matrix products and attention on the packed tokens (each prompt once) and the head on "
            "completion tokens, forward and backward. The head's second forward is not counted."
        ],
        calibrations=calibrations,
        raw={"seconds": seconds, "useful_flops": flops},
    )


def useful_flops(batch: Batch, model: Any) -> float:
    """FLOPs of one update: 2 a weight and token, 4 a query-key pair and channel, times forward and backward."""
    config, head = model.config, model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.get_decoder().layers.parameters() if p.dim() == 2)
    pairs = sum(
        block.prompt * (block.prompt + 1) // 2
        + sum(length * block.prompt + length * (length + 1) // 2 for length in block.lengths)
        for block in batch.blocks
    )
    attention = 4 * pairs * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    forward = 2 * body * batch.num_tokens + 2 * head * batch.num_actions + attention
    return (1 + BACKWARD) * forward


def _completions(shape: Shape) -> list[list[int]]:
    generator = np.random.Generator(np.random.Philox(key=child(0, shape.name, "completions")))
    return [generator.integers(VOCABULARY, size=length).tolist() for length in shape.lengths]


def _efficiency(update_s: float, flops: float, calibrations: list, batch: Batch) -> Table:
    peak = max(calibration.bfloat16_gemm for calibration in calibrations)
    gemm = max(calibration.model_gemm for calibration in calibrations)
    rate = flops / update_s / 1e9
    return Table(
        caption=f"One update: {batch.num_tokens} packed tokens, {batch.num_actions} of them trained",
        columns=["seconds", "useful GFLOP/s", "of the 2048^3 GEMM peak", "of a model-shaped GEMM"],
        rows=[
            [f"{update_s:.1f}", f"{rate:.0f}", f"{rate / peak:.0%} of {peak:.0f}", f"{rate / gemm:.0%} of {gemm:.0f}"]
        ],
    )


def _operators(profiler: Any) -> Table:
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return Table(
        caption=f"Operators by their own time, of {total / 1e6:.1f} s under the profiler",
        columns=["operator", "calls", "seconds", "share"],
        rows=[
            [
                f"`{event.key}`",
                str(event.count),
                f"{event.self_cpu_time_total / 1e6:.2f}",
                f"{event.self_cpu_time_total / total:.0%}",
            ]
            for event in events[:OPERATORS]
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="A1")
    print(measure(SHAPES[parser.parse_args().shape]).save())


if __name__ == "__main__":
    main()
