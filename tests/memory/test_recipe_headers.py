"""The shipped recipes for a GPU fit the hardware that their headers name, by the number that they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = runpy.run_path(str(ROOT / ".ci" / "memory_table.py"))
FOR_GPUS = TABLE["for_gpus"]()


def test_every_shipped_recipe_that_names_a_gpu_says_what_was_counted():
    lines = [(file, line) for file in (ROOT / "recipes").rglob("*.yaml") for line in file.read_text().splitlines()[:12]]
    names = {file for file, line in lines if line.startswith("#   hardware") and "GPU" in line and "no GPU" not in line}
    assert names == {file for file, _ in FOR_GPUS} != set()


@pytest.mark.slow
@pytest.mark.parametrize(("file", "said"), FOR_GPUS, ids=lambda given: getattr(given, "stem", ""))
def test_a_shipped_recipe_fits_its_hardware_by_what_its_header_says(file, said):
    found = TABLE["needed"](file, said)
    assert all(need.fits for need in found)
    assert max(need.bytes for need in found) / 1e9 == pytest.approx(float(said["gb"]), abs=0.06)
