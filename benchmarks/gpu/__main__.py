"""The battery for a first card.

python -m benchmarks.gpu --out runs/gpu      all parts; writes runs/gpu.json and runs/gpu.md, exit 1 when one is wrong
python -m benchmarks.gpu --part update       one part, to try it out
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from alignkit.run.check.where import where
from benchmarks.gpu.part import document, run_part, table
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.sizes import SIZES

MINUTES = 8
NO_GPU = 2


def battery(out: Path, *, device: str, sizes: str, names: list[str]) -> int:
    """Runs the parts one after the other and writes both files; what is left when the time is over is skipped."""
    end, outcomes = time.monotonic() + 60 * MINUTES, []
    for part in [part for part in PARTS if part.name in names]:
        print(f"{part.name}: {part.about}", flush=True)
        outcomes.append(run_part(part, sizes, device, time_left=end - time.monotonic()))
        print(f"    {outcomes[-1].status} {outcomes[-1].reason}", flush=True)
    rows, date = where(device), datetime.date.today().isoformat()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(document(outcomes, rows, date))
    page = table(outcomes, rows, date)
    out.with_suffix(".md").write_text(page)
    print(f"\n{page}\n{out}.json and {out}.md are written")
    return int(any(outcome.status in ("wrong", "died") for outcome in outcomes))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--part", choices=[part.name for part in PARTS])
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # a part's own process writes its rows here
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)  # cpu: tests try the battery out
    parser.add_argument("--sizes", choices=SIZES, default="card", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print("no GPU that torch can use: run alignkit doctor to see why", file=sys.stderr)
            return NO_GPU
    if given.rows is None:
        names = [given.part] if given.part else [part.name for part in PARTS]
        return battery(given.out, device=given.device, sizes=given.sizes, names=names)
    [part] = [part for part in PARTS if part.name == given.part]
    rows = part.work(SIZES[given.sizes], given.device)
    given.rows.write_text(json.dumps([asdict(row) for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
