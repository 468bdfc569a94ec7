"""A rank that is killed in the middle of a weight sync: the engine goes on with what it has, and the error names it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch

from tests.distributed.ranks import run_ranks


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_engine_is_not_told_serves_the_old_version_and_loads_nothing_until_a_whole_update_came(tmp_path: Path):
    run_ranks(["-m", "tests.distributed.dying", str(tmp_path)], world=2, timeout_s=800, codes=[0, -signal.SIGKILL])
    said, process = torch.load(tmp_path / "said.pt"), (tmp_path / "process-1").read_text()
    named = rf"weight sync to version 2: rank 1 \(process {process}\) died before all weights were written; no engine"
    assert re.match(named, said["error"])
    assert (said["serves"], said["scores"]) == (1, said["one"])
    assert "holds parts of different versions (base), of which no engine may load" in said["torn"]
    assert (said["version"], said["after"]) == (3, said["three"])
    assert said["one"] != said["three"]
