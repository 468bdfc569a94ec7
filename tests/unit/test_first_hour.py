"""The table of the first hour: what is read from a run and from the commands' own words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import first_hour
from benchmarks.first_hour import JOBS, clock, measured, table, write


@pytest.fixture
def work(tmp_path):
    """A job that was measured before."""
    part = {"out": "", "err": "", "code": 0, "wall_s": 61.4, "cpu_s": 3725.0}
    export = part | {"out": json.dumps({"gaps": {"gap": 0.0448}})}
    told: dict[str, Any] = {"date": "2026-11-30", "machine": "a processor, 2 cores"}
    (tmp_path / "sft.json").write_text(json.dumps(told | {"train": part, "export": export, "chat": part}))
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    write(tmp_path / "runs/sft/metrics.jsonl", [{"loss/policy": 2.5}, {"loss/policy": None}, {"loss/policy": 1.25}])
    return tmp_path


def test_a_row_shows_both_clocks_the_first_and_last_step_and_what_the_export_says(work):
    row = table([measured(JOBS[0], None, work)]).splitlines()[2]
    assert row == (
        "| SFT with LoRA on conversations | 1:01 (62:05) | 1:01 (62:05) | 1:01 (62:05) | 3 "
        "| `loss/policy` 2.500 -> 1.250 | 0.045 |"
    )


def test_minutes_are_cut_not_rounded():
    assert [clock(59.9), clock(60), clock(3600)] == ["0:59", "1:00", "60:00"]


def test_the_page_has_the_place_for_the_table():
    page = first_hour.PAGE.read_text()
    assert page.count(first_hour.BEGIN) == page.count(first_hour.END) == 1
