"""One whole GRPO step of SmolLM2-135M on CPU: ours against TRL's GRPOTrainer, one after the other, on the same work.

python -m benchmarks.grpo_step --shape A1 --pairs 3
python -m benchmarks.grpo_step --shape A2 --dtype float32    # where the processor has no bfloat16 arithmetic
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.grpo_tables import Measured, result_of
from benchmarks.results import this_machine
from benchmarks.shapes import SHAPES, Shape
from benchmarks.side import SideDied
from benchmarks.trials import Trials
from benchmarks.trl_settings import Settings


def measure(shape: Shape, settings: Settings, pairs: int) -> Measured:
    """Runs both sides in turns, the first one changing; the warm-up of the first pair checks that they agree.

    A side that dies ends the measurement, and stands in it. Raises SideDied when it does so before anything is timed.
    """
    machine = this_machine()
    with tempfile.TemporaryDirectory() as folder:
        exact = _exact_cosine(settings, Path(folder))
        print(f"in float32 on A0: cosine {exact}", flush=True)
        trials = Trials(shape, settings, Path(folder))
        trials.prepare(hf=True)
        measured, agreement = [], None
        for pair in trials.pairs(pairs):
            measured.append(pair)
            if pair.ours and pair.trl:
                agreement = agreement or trials.agreement(pair.ours.warm, pair.trl.warm)
                print(f"pair {len(measured)}: {pair.ratio:.2f} times, CPU {pair.cpu_ratio:.2f} times", flush=True)
    return Measured(
        shape=shape,
        settings=settings,
        machine=machine,
        agreement=agreement,
        exact=exact,
        pairs=measured,
        deaths=trials.deaths,
        hf_s=trials.hf_s,
    )


def _exact_cosine(settings: Settings, folder: Path) -> float:
    """Of the two sides' gradients without the rounding of bfloat16, on the smallest shape."""
    trials = Trials(SHAPES["A0"], replace(settings, autocast=False), folder)
    trials.prepare(hf=False)
    return trials.exact_cosine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="A1")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="arithmetic of both sides")
    arguments = parser.parse_args()
    try:
        measured = measure(SHAPES[arguments.shape], Settings(autocast=arguments.dtype == "bfloat16"), arguments.pairs)
    except SideDied as death:
        sys.exit(f"{death}\nnothing was timed, so no result was written: free memory, or take a smaller --shape")
    print(result_of(measured).save())
    if measured.deaths:
        sys.exit("\n".join(map(str, measured.deaths)))


if __name__ == "__main__":
    main()
