"""Every measurement, one after the other, and the README. Wants a quiet machine for about an hour.

python -m benchmarks.all
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.readme import write

MEASUREMENTS = (
    ("benchmarks.grpo_step", "--shape", "A1", "--pairs", "3"),
    ("benchmarks.grpo_step", "--shape", "A2", "--pairs", "3"),
    ("benchmarks.head",),
    ("benchmarks.update_profile", "--shape", "A1"),
    ("benchmarks.trl_tuning", "--shape", "A1"),
)


def main() -> None:
    """Each measurement in a fresh process; the README also when one fails, and then exit code 1."""
    failed = [" ".join(command) for command in MEASUREMENTS if subprocess.call([sys.executable, "-m", *command])]
    print(write())
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
