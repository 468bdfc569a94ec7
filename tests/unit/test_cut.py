"""What a resume goes back behind is cut off the run's files and kept beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alignkit.run_folder.cut import KEPT, cut_files, cut_lines
from alignkit.run_folder.run_folder import RunFolder


def lines(*steps: int) -> str:
    return "".join(f'{{"step": {step}}}\n' for step in steps)


def cut(file: Path, step: int) -> int:
    return cut_lines(file, lambda record: record["step"] < step, step)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_lines_beyond_the_step_are_kept_byte_for_byte_beside_the_file(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(lines(0, 1) + '{"step":   2}\n' + lines(3))
    assert cut(file, 2) == 2
    assert file.read_text() == lines(0, 1)
    assert (tmp_path / "metrics.jsonl.cut-at-2").read_text() == '{"step":   2}\n' + lines(3)
    before = file.stat().st_mtime_ns
    assert cut(file, 2) == 0
    assert (file.stat().st_mtime_ns, len(names(tmp_path))) == (before, 2)  # nothing to cut: nothing is written


def test_a_second_cut_at_a_step_has_a_name_of_its_own_and_a_repeated_one_has_not(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for later in ((2, 3), (2,), (2,)):  # the third is what a kill between the two writes leaves
        file.write_text(lines(0, 1, *later))
        cut(file, 2)
    assert names(tmp_path) == ["metrics.jsonl", "metrics.jsonl.cut-at-2", "metrics.jsonl.cut-at-2.2"]


def test_the_three_newest_cuts_and_the_longest_stay(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for number, step in enumerate((5, 40, 10, 20, 30, 50)):
        file.write_text(lines(*range(step + (100 if step == 40 else 2))))
        cut(file, step)
        newest = tmp_path / f"metrics.jsonl.cut-at-{step}"
        os.utime(newest, ns=(number, number))
    assert KEPT == 3
    assert names(tmp_path) == ["metrics.jsonl", *(f"metrics.jsonl.cut-at-{step}" for step in (20, 30, 40, 50))]


def test_files_of_later_steps_move_into_a_folder_beside_theirs(tmp_path):
    folder = tmp_path / "rollouts"
    folder.mkdir()
    for step in (1, 2, 3):
        (folder / f"main-{step:06d}.parquet").write_text(str(step))
    later = sorted(folder.iterdir())[1:]
    (tmp_path / "rollouts.cut-at-2").mkdir()
    later[0].rename(tmp_path / "rollouts.cut-at-2" / later[0].name)  # a kill came between the two moves
    assert cut_files(folder, later[1:], 2) == 1
    assert names(tmp_path / "rollouts.cut-at-2") == ["main-000002.parquet", "main-000003.parquet"]
    later[0].write_text("done again")
    cut_files(folder, later[:1], 2)
    assert (tmp_path / "rollouts.cut-at-2.2" / later[0].name).read_text() == "done again"
    assert (tmp_path / "rollouts.cut-at-2" / later[0].name).read_text() == "2"


def test_a_kill_before_any_change_of_a_cut_loses_no_line(tmp_path, monkeypatch):
    """os.replace, the only change to what was there, is refused at its first, second, ... call; then the cut is
    made again."""
    replace = os.replace
    for allowed in range(8):
        run = RunFolder(tmp_path / str(allowed), clock=lambda: 1.0)
        for step in range(4):
            run.metrics(step, {"reward/mean": step / 10})
            run.consumed(step, [f"task-{step}"])
        whole = {path.name: path.read_bytes() for path in (run.metrics_file, run.ledger_file)}
        left = [allowed]

        def until(source: Path, target: Path, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", until)
        try:
            run.truncate(2)
        except KeyboardInterrupt:
            monkeypatch.setattr(os, "replace", replace)
            run.truncate(2)
        monkeypatch.setattr(os, "replace", replace)
        for name, content in whole.items():
            pieces = (run.path / name).read_bytes() + (run.path / f"{name}.cut-at-2").read_bytes()
            assert pieces == content
        assert len(names(run.path)) == 7  # three folders, two files, two cuts


@pytest.mark.parametrize("kind", ["health", "message"])
def test_events_but_health_are_history_and_stay(tmp_path, kind):
    run = RunFolder(tmp_path)
    run.event(kind, step=7)
    run.truncate(3)
    assert (run.path / "events.jsonl.cut-at-3").exists() == (kind == "health")
