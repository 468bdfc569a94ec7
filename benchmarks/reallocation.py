"""Weights from ZeRO-3 ranks to the workers of an engine: by the plan, through host memory, and by gathering all first.

    python -m benchmarks.reallocation [--rounds 5]

All processes are on this machine and speak over gloo. The engine's workers are processes that take their boxes as
vLLM's would; vLLM itself does not run. Three workers, not two: SmolLM2-135M has 9 heads. Written into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import time
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import torch.multiprocessing

from alignkit.types.layout import Holder
from alignkit.weights.layouts.decoder import Decoder
from alignkit.weights.layouts.vllm_layout import vllm_layout
from alignkit.weights.layouts.zero_layout import zero_layout
from alignkit.weights.plan.fewest import fewest
from alignkit.weights.plan.plan import plan
from benchmarks.algorithms import ROOT, put
from benchmarks.calibrate import calibrate
from benchmarks.reallocation_ranks import MODEL, SIDES, Setting, rank
from benchmarks.results import Result, Table, this_machine

PAGE = ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- table of make reallocation -->", "<!-- end of the table -->"
SETTINGS = [Setting(ranks, workers) for ranks in (2, 4) for workers in (1, 3)]
TARGET = 3.0  # times faster at 4 ranks
BEGIN_PLANS, END_PLANS = "<!-- plans by make reallocation -->", "<!-- end of the plans -->"
PLANNED = ["ZeRO stage", "ranks", "hosts of the engines", "seconds", "million moves", "models between hosts",
           "most sent, of a model", "most received"]  # fmt: skip
COLUMNS = ["ranks", "workers", "path", "seconds", "gather / path", "MB over gloo", "of the fewest", "same bits"]


def measure(rounds: int) -> Result:
    """Every setting in fresh processes; its sides in turns."""
    machine, calibrations, rows, raw = this_machine(), [calibrate()], [], {}
    for setting in SETTINGS:
        told = _run(setting, rounds)
        calibrations.append(calibrate())
        raw[f"{setting.ranks} ranks, {setting.workers} workers"] = told
        rows += [_row(setting, side, told) for side in SIDES]
    return Result(
        order=3,
        name="reallocation",
        title="Weights from trainer to engine",
        machine=machine,
        tables=[
            Table(
                caption=f"SmolLM2-135M, {_numbers() / 1e6:.0f} million numbers, float32 shards into bfloat16 boxes; "
                f"medians of {rounds} turns, ratios of neighbouring turns with the lowest and the highest",
                columns=COLUMNS,
                rows=rows,
            )
        ],
        notes=[
            f"Target: {TARGET:g} times faster at 4 ranks.",
            "gather: each layer made whole on every rank (as DeepSpeed's gathering does), cast and written into host "
            "memory by the first rank, workers copy their boxes. plan: each rank sends each worker what it wants, in "
            "bfloat16. host memory: each rank writes its own pieces, all proven by digests, workers copy their boxes.",
            "MB over gloo: what all processes receive. Fewest: the bound of `fewest`, all of it within one host here.",
        ],
        calibrations=calibrations,
        raw=raw,
    )


def planned() -> list[list[str]]:
    """Plans for a model of 70 billion on up to 1,024 devices, in seconds of one core."""
    model = Decoder(layers=80, width=8192, heads=64, kv_heads=8, head_size=128, intermediate=28672, vocabulary=128256)
    numbers = sum(map(prod, model.shapes.values()))
    found = []
    for stage, ranks, shared, workers in (
        (3, 512, False, 8),
        (3, 500, False, 8),
        (2, 512, False, 8),
        (3, 512, True, 8),
    ):
        trainers = [Holder(f"trainer{index // 8}", index) for index in range(ranks)]
        hosts = "trainer" if shared else "engine"
        engines = [Holder(f"{hosts}{index // 8}", ranks + index) for index in range(512)]
        source = zero_layout(stage, model.shapes, trainers)
        replicas = [engines[first : first + workers] for first in range(0, 512, workers)]
        target = vllm_layout(model, replicas, tensor_parallel=workers)
        begun = time.process_time()
        made = plan(source, target)
        taken = time.process_time() - begun
        most = [f"{amount.max() / numbers:.3f}" for amount in (made.sent, made.received)]
        found.append([
            f"{stage}", f"{ranks}", "the trainers'" if shared else "their own", f"{taken:.1f}",
            f"{len(made) / 1e6:.1f}", f"{made.numbers.between_hosts / numbers:g}", *most,
        ])  # fmt: skip
    return found


def _run(setting: Setting, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        out = Path(folder) / "told.pt"
        torch.multiprocessing.spawn(rank, (setting, rounds, port, str(out)), nprocs=setting.ranks + setting.workers)
        return torch.load(out, weights_only=True)


def _row(setting: Setting, side: str, told: dict[str, Any]) -> list[str]:
    ratios = [theirs / ours for theirs, ours in zip(told["seconds"]["gather"], told["seconds"][side], strict=True)]
    ratio, bound = median(ratios), 2 * _fewest(setting)
    missed = side == SIDES[-1] and setting.ranks == 4 and ratio < TARGET
    return [
        str(setting.ranks),
        str(setting.workers),
        side,
        f"{median(told['seconds'][side]):.2f}",
        "-" if side == "gather" else f"{ratio:.1f} ({min(ratios):.1f} - {max(ratios):.1f})" + " **missed**" * missed,
        f"{told['bytes'][side] / 1e6:.0f}",
        f"{told['bytes'][side] / bound:.2f}" if told["bytes"][side] else "-",
        "yes" if told["equal"][side] else "**no**",
    ]


def _fewest(setting: Setting) -> int:
    """Numbers that must leave the processes that have them."""
    source = zero_layout(3, MODEL.shapes, setting.trainers)
    target = vllm_layout(MODEL, [setting.engine], tensor_parallel=setting.workers)
    found = fewest(source, target)
    assert plan(source, target).numbers == found
    return found.within_host + found.between_hosts


def _numbers() -> int:
    return sum(map(prod, MODEL.shapes.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    result = measure(parser.parse_args().rounds)
    result.save()
    [table] = result.tables
    lines = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *table.rows)]
    text = "\n".join([f"{result.date}; {result.machine}{'; noisy' * result.noisy}. {table.caption}.", "", *lines])
    put(PAGE, BEGIN, END, text)
    lines = [f"| {' | '.join(cells)} |" for cells in (PLANNED, ["---"] * len(PLANNED), *planned())]
    put(PAGE, BEGIN_PLANS, END_PLANS, "\n".join(lines))
    print(text, *lines, sep="\n")


if __name__ == "__main__":
    main()
