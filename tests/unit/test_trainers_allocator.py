"""The trainer's CUDA allocator grows its segments, unless somebody has said otherwise: what torch starts with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
SPY = f"""
import importlib.abc, os, sys
class Spy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(*(os.environ.get(name) for name in {NAMES}), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Spy())
from alignkit.cli.main import main
sys.argv = ["alignkit", "train", "smoke/char-addition", "run=RUN"]
main()
"""


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ({}, "expandable_segments:True None"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64 None"),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:False"}, "None expandable_segments:False"),
    ],
    ids=["nothing is said", "by torch's older name", "by its newer name"],
)
def test_torch_starts_with_expandable_segments_where_the_user_has_said_nothing(own, found, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", SPY.replace("RUN", str(tmp_path / "run"))],
        env={**environment, **own}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, found), done.stderr
    assert not (tmp_path / "run").exists()
