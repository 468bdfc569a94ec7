"""Runs the recipes of recipes/smoke/ through the command line and checks each against the number its header promises.

A header line `#   expected   ... at least 0.90 ...` is the promise; the last evaluation of the run must keep it.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def promised(recipe: pathlib.Path) -> float:
    """The number after "at least" in the recipe's header."""
    found = re.search(r"^#\s+expected\b.*?at least ([0-9.]+)", recipe.read_text(), re.MULTILINE)
    if found is None:
        sys.exit(f"{recipe}: its header promises no number (# expected ... at least N)")
    return float(found.group(1))


def last_accuracy(run: pathlib.Path) -> float:
    evaluations = sorted((run / "evaluations").glob("*.json"), key=lambda file: int(file.stem.rsplit("-", 1)[1]))
    return json.loads(evaluations[-1].read_text())["accuracy"]


def main() -> None:
    failed = []
    for recipe in sorted((ROOT / "recipes" / "smoke").glob("*.yaml")):
        wanted = promised(recipe)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            command = [sys.executable, "-m", "alignkit", "train", str(recipe), f"run={folder}/run"]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            log = pathlib.Path(folder) / "log"
            with log.open("wb") as output:
                code = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output).returncode
            if code:
                print(log.read_text()[-3000:])
                sys.exit(f"{recipe.name}: exit code {code}")
            got = last_accuracy(pathlib.Path(folder) / "run")
        verdict = "ok" if got >= wanted else "MISSED"
        print(f"{recipe.stem}: accuracy {got:.3f}, promised {wanted}: {verdict} ({time.monotonic() - begun:.0f} s)")
        if got < wanted:
            failed.append(recipe.stem)
    sys.exit(f"missed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
