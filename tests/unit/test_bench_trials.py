"""The GRPO benchmark's order of work and its tables, with sides that answer at once instead of training."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks import grpo_step, readme, results, trials, trl_tuning
from benchmarks.agreement import same_digits
from benchmarks.calibrate import Calibration
from benchmarks.grpo_tables import Measured, result_of
from benchmarks.results import Machine
from benchmarks.shapes import SHAPES
from benchmarks.side import SideDied, Turn
from benchmarks.trials import OURS, TRL, Pair, Trial
from benchmarks.trl_settings import Settings

QUIET = Calibration(bfloat16_gemm=800, float32_gemm=170, model_gemm=700, read=20, copy=20)
GIB = 2**30
SECONDS = {OURS: 2.0, TRL: 9.0}
PHASES = {OURS: {"generate_s": 0.5, "update_s": 1.2, "sync_s": 0.3}, TRL: {"generate_s": 5, "update_s": 4, "sync_s": 0}}


def turn_of(name, value, others=0.05):
    cpu = {OURS: 4.0, TRL: 10.0}[name]
    peak = {OURS: 5 * GIB, TRL: 4 * GIB}[name]
    return Turn(value=value, wall_s=SECONDS[name], cpu_s=cpu, peak_bytes=peak, others=others, load=2.5)


class FakeSide:
    """Notes in `log` what happens; dies at its `step` when the log holds `deaths` of its steps."""

    def __init__(self, name, log, dies_at_step=None):
        self.name, self.log, self.dies = name, log, dies_at_step
        log.append(("start", name))

    def __call__(self, command):
        self.log.append((command if isinstance(command, str) else command[0], self.name))
        match command:
            case "sample":
                return turn_of(self.name, [[1, 2], [3]])
            case ("exact" | "gradient", [[1, 2], [3]], file):
                save_file({"w": np.array([3.0, 4.0], dtype=np.float32)}, file)
                return turn_of(self.name, {"loss": 0.25, "entropy": 1.5})
            case "hf":
                return turn_of(self.name, 7.0)
            case "step":
                if self.log.count(("step", self.name)) == self.dies:
                    raise SideDied(self.name, "`step`", "exit code 1", 3 * GIB, "    no memory")
                return turn_of(self.name, PHASES[self.name])
        raise AssertionError(f"{self.name} was asked {command}")

    def close(self):
        self.log.append(("end", self.name))


@pytest.fixture
def run(monkeypatch):
    """Measures A2 with fake sides; returns the measurement and the log."""
    monkeypatch.setattr(trials, "calibrate", lambda: QUIET)

    def measured(pairs, **dies):
        log = []
        monkeypatch.setattr(trials, "start_ours", lambda *_: FakeSide(OURS, log, dies.get("ours")))
        monkeypatch.setattr(trials, "start_trl", lambda *_: FakeSide(TRL, log, dies.get("trl")))
        return grpo_step.measure(SHAPES["A2"], Settings(), pairs), log

    return measured


def test_a_side_has_ended_before_the_next_one_starts_and_the_first_side_changes(run):
    _, log = run(3)
    lives = [entry for entry in log if entry[0] in ("start", "end")]
    for begin, end in zip(lives[::2], lives[1::2], strict=True):
        assert (begin[0], *end) == ("start", "end", begin[1])
    steps = [name for command, name in log if command == "step"]
    assert steps == [OURS, TRL, TRL, OURS, OURS, TRL]


def test_every_timed_step_follows_the_same_warm_up_in_a_fresh_process(run):
    _, log = run(2)
    for at, (command, name) in enumerate(log):
        if command == "step":
            assert log[at - 2 : at + 2] == [("start", name), ("gradient", name), ("step", name), ("end", name)]
    assert log.count(("exact", OURS)) == log.count(("sample", OURS)) == 2, "for A0 in float32 and for the shape itself"


def test_ratios_are_of_each_pair_and_a_lost_cell_is_marked(run):
    """9 s of 2 s, 10 CPU s of 4 s, 4 GiB of 5 GiB; both losses are 0.25."""
    sides, phases, every = result_of(run(2)[0]).tables
    assert sides.rows == [
        ["alignkit", "2.0", "4.0", "5.0", "0.250000"],
        ["TRL", "9.0", "10.0", "4.0", "0.250000"],
        [
            "TRL / alignkit",
            "4.50 (4.50 - 4.50)",
            "2.50 (2.50 - 2.50)",
            "0.80 (0.80 - 0.80) **loses**",
            "same to 9 digits",
        ],
    ]
    assert phases.rows == [
        ["generate", "0.5", "5.0", "10.00 (10.00 - 10.00)"],
        ["update", "1.2", "4.0", "3.33 (3.33 - 3.33)"],
        ["sync", "0.3", "-", "-"],
    ]
    assert [row[:4] for row in every.rows] == [
        ["1", "alignkit", "2.0", "4.0"],
        ["1", "TRL", "9.0", "10.0"],
        ["2", "TRL", "9.0", "10.0"],
        ["2", "alignkit", "2.0", "4.0"],
    ]
    assert every.rows[0][6:8] == ["2.5", "0.05"]


def test_a_side_that_dies_at_once_leaves_the_others_numbers_and_no_ratio(run):
    measured, log = run(3, trl=1)
    result = result_of(measured)
    assert [name for command, name in log if command == "step"] == [OURS, TRL], "it would die again"
    assert result.tables[0].rows == [
        ["alignkit", "2.0", "4.0", "5.0", "0.250000"],
        ["TRL", "**died**", "**died**", "3.0 when it died", "-"],
        ["TRL / alignkit", "-", "-", "-", "-"],
    ]
    assert result.tables[1].rows[0] == ["generate", "0.5", "-", "-"]
    assert result.tables[2].rows[1] == ["1", "TRL", "**died**", *["-"] * 6]
    assert result.notes[0].startswith("**TRL died at `step`: exit code 1; its peak memory was 3.0 of the machine's")
    assert result.raw["headline"] is None
    assert not any("arget" in note for note in result.notes)


def test_a_side_that_dies_later_leaves_the_complete_pairs(run):
    measured, _ = run(3, ours=2)
    result = result_of(measured)
    assert result.tables[0].caption.startswith("One step, medians of 1 pair;")
    assert result.tables[0].rows[2][1] == "4.50"
    assert [row[:3] for row in result.tables[2].rows[2:]] == [["2", "TRL", "9.0"], ["2", "alignkit", "**died**"]]
    assert result.notes[0] == "Target: 6 times faster; **missed** in wall seconds."
    assert "alignkit died" in result.notes[1]


def test_the_command_writes_the_result_of_a_dead_side_and_fails(run, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["grpo_step", "--shape", "A2", "--pairs", "2"])
    run(1)
    monkeypatch.setattr(trials, "start_trl", lambda *_: FakeSide(TRL, [], dies_at_step=1))
    with pytest.raises(SystemExit, match=r"^TRL died at `step`(.|\n)*no memory$"):
        grpo_step.main()
    assert json.loads((tmp_path / "grpo_step-A2.json").read_text())["raw"]["deaths"][0].startswith("TRL died")


def test_a_death_before_anything_is_timed_writes_nothing(run, tmp_path, monkeypatch):
    def dead(*_):
        raise SideDied(TRL, "its start", "exit code 1", GIB, "")

    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["grpo_step", "--shape", "A2"])
    run(1)
    monkeypatch.setattr(trials, "start_trl", dead)
    with pytest.raises(SystemExit, match=r"TRL died at its start(.|\n)*no result was written"):
        grpo_step.main()
    assert not list(tmp_path.iterdir())


def test_on_a_busy_machine_the_cpu_seconds_decide_and_the_wall_seconds_are_marked():
    """9 s of 2 s miss the target of 6 and 10 CPU s of 4 s that of 3, when a neighbour took 0.3 cores in one step."""

    def measured(others):
        ours, trl = (
            Trial(turn=turn_of(name, PHASES[name], share), warm={"loss": 1.0}, start_s=1, calibrations=(QUIET, QUIET))
            for name, share in ((OURS, 0.05), (TRL, others))
        )
        machine = Machine(cpu="Test CPU", cores=2, memory_gib=24, load=0.5)
        pairs = [Pair(ours=ours, trl=trl)]
        return Measured(
            shape=SHAPES["A1"],
            settings=Settings(),
            machine=machine,
            agreement=None,
            exact=1.0,
            pairs=pairs,
            deaths=[],
            hf_s=1.0,
        )

    quiet, busy = result_of(measured(0.2)), result_of(measured(0.3))
    assert quiet.notes[0] == "Target: 3 times faster; reached in wall seconds."
    assert busy.notes[0] == "Target: 3 times faster; **missed** in CPU seconds."
    assert "busy" in busy.notes[1]
    assert [result.tables[0].columns[1] for result in (quiet, busy)] == ["wall seconds", "wall seconds (busy machine)"]


def test_a_pair_is_noisy_when_the_machine_changed_during_it():
    slower = dataclasses.replace(QUIET, read=15)
    trial = Trial(turn=turn_of(OURS, {}), warm={}, start_s=1.0, calibrations=(QUIET, QUIET))
    assert not Pair(ours=trial, trl=trial).noisy
    assert Pair(ours=trial, trl=dataclasses.replace(trial, calibrations=(QUIET, slower))).noisy
    assert not Pair(ours=trial, trl=None).noisy
    assert (Pair(ours=trial, trl=None).ratio, Pair(ours=trial, trl=None).cpu_ratio) == (None, None)


@pytest.mark.parametrize(
    ("ours", "trl", "said"),
    [
        (0.17913930, 0.17913933, "same to 6 digits"),
        (0.5, 0.5, "same to 9 digits"),
        (-0.2, -0.2003, "same to 2 digits"),
        (0.2, -0.2, "**different**"),
        (3e-9, -2e-8, "both 0 but for rounding"),
    ],
)
def test_the_digits_that_two_losses_share(ours, trl, said):
    assert same_digits(ours, trl) == said


def test_the_front_page_gets_a_line_for_every_compared_step_and_keeps_the_rest(run, tmp_path, monkeypatch):
    for name, value in (("README", "bench.md"), ("FRONT", "front.md"), ("FOLDER", "")):
        monkeypatch.setattr(readme, name, tmp_path / value)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    (tmp_path / "front.md").write_text(f"# a\n\n{readme.BEGIN}\nold\n{readme.END}\nrest\n")
    result_of(run(2)[0]).save()
    readme.write()
    text = (tmp_path / "front.md").read_text()
    assert text.startswith("# a\n\n")
    assert text.endswith("\nrest\n")
    assert "old" not in text
    row = (
        "A2: 4 x 16, of 512 and 64 tokens | 2.0 s | 9.0 s | 4.5 | 2.5 | 0.8 **loses** | same to 9 digits | 2, 2.5 - 2.5"
    )
    assert f"| {row} |" in text.splitlines()


def test_a_setting_of_trl_that_dies_has_that_in_its_row(monkeypatch):
    monkeypatch.setattr(trl_tuning, "calibrate", lambda: QUIET)
    monkeypatch.setattr(trl_tuning, "start_trl", lambda _, settings, __: FakeSide(TRL, [], 2 * (settings.batch == 16)))
    result = trl_tuning.measure(SHAPES["A2"], {"8": Settings(), "16": Settings(batch=16)})
    assert result.tables[0].rows == [["8", "5.0", "4.0", "9.0", "10.0", "4.0"], ["16", *["**died**"] * 5]]
    assert result.notes[0].startswith("**16: TRL died at `step`: exit code 1")
