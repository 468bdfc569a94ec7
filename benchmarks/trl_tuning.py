"""Looks for TRL's best settings on this machine, so that grpo_step.py compares with TRL at its best.

python -m benchmarks.trl_tuning --shape A1
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.calibrate import calibrate
from benchmarks.results import Result, Table, this_machine
from benchmarks.shapes import SHAPES, Shape
from benchmarks.side import SideDied, Turn
from benchmarks.trials import start_trl
from benchmarks.trl_settings import Settings

# Each differs from Settings() in what its name says.
CANDIDATES = {
    "base: 8 sequences per forward, no checkpointing": Settings(),
    "TRL's default: activations checkpointed": Settings(checkpointing=True),
    "4 sequences per forward": Settings(batch=4),
    "16 sequences per forward": Settings(batch=16),
    "static cache": Settings(cache="static"),
    "float32 arithmetic": Settings(autocast=False),
    "torch.compile": Settings(compile=True),
    "with our allocator settings": Settings(allocator=True),
    "bfloat16 weights and optimizer (not the same training)": Settings(weights="bfloat16"),
}


def measure(shape: Shape, candidates: dict[str, Settings]) -> Result:
    """Two steps with each of the candidates, the second one counts. One that dies has that in its row."""
    machine, calibrations, rows, raw, deaths = this_machine(), [calibrate()], [], {}, []
    for name, settings in candidates.items():
        settings = replace(settings, batch=min(settings.batch, shape.samples))
        try:
            turn = _second_step(shape, settings)
        except SideDied as death:
            deaths.append(f"**{name}: {death.summary}.**")
            cells, raw[name] = ["**died**"] * 5, {"settings": asdict(settings), "died": str(death)}
        else:
            phases = [turn.value[key] for key in ("generate_s", "update_s")]
            cells = [f"{value:.1f}" for value in (*phases, turn.wall_s, turn.cpu_s, turn.peak_bytes / 2**30)]
            raw[name] = {"settings": asdict(settings), "wall_s": turn.wall_s, "cpu_s": turn.cpu_s}
        calibrations.append(calibrate())
        rows.append([name, *cells])
        print(*rows[-1], sep=" | ", flush=True)
    return Result(
        order=4,
        name=f"trl_tuning-{shape.name}",
        title=f"TRL's settings, shape {shape.name}",
        machine=machine,
        tables=[
            Table(
                caption="One step, seconds",
                columns=["", "generate", "update", "step", "CPU", "peak memory, GiB"],
                rows=rows,
            )
        ],
        notes=[
            *deaths,
            "TRL's own generation is what it has on a CPU: its sync to vLLM calls load_weights, which vLLM's CPU build "
            "refuses, and its continuous batching turns the trained weights into bfloat16 for good.",
        ],
        calibrations=calibrations,
        raw=raw,
    )


def _second_step(shape: Shape, settings: Settings) -> Turn:
    with tempfile.TemporaryDirectory() as folder, closing(start_trl(shape, settings, Path(folder))) as side:
        side("step")
        return side("step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="A1")
    print(measure(SHAPES[parser.parse_args().shape], CANDIDATES).save())


if __name__ == "__main__":
    main()
