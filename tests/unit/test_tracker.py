"""Trackers: TensorBoard and Trackio for real, read back from disk; Weights & Biases through a stand-in module."""

import math
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from alignkit.errors import ContentError
from alignkit.report.tracker import open_tracker

ROWS = [{"reward": 1.0, "prompt": "2+2?", "completion": "<b>4</b> | `x`\n\x1b[31m"}]


def test_none_takes_everything_and_writes_nothing(tmp_path):
    tracker = open_tracker("none", tmp_path, {})
    tracker.log(0, {"reward/mean": 1.0})
    tracker.table(0, ROWS)
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_event_files_hold_every_known_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = open_tracker("tensorboard", tmp_path, {"seed": 0})
    for step in range(3):
        tracker.log(step, {"reward/mean": step / 4, "policy/kl_reference": None, "loss/policy": math.nan})
    tracker.table(2, ROWS)
    tracker.close()
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["reward/mean"]
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    (table,) = events.Tensors("completions/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert text.splitlines()[2] == "| 1.0 | 2+2? | &lt;b>4&lt;/b> \\| 'x'⏎�[31m |"


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first_step, value in ((0, 1.0), (2, 9.0)):
        tracker = open_tracker("tensorboard", tmp_path, {}, first_step=first_step)
        for step in range(first_step, 4):
            tracker.log(step, {"reward/mean": value})
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("reward/mean")
    assert [(event.step, event.value) for event in events] == [(0, 1.0), (1, 1.0), (2, 9.0), (3, 9.0)]


TRACKIO_RUN = """
import sys
from pathlib import Path
from alignkit.report.tracker import open_tracker
for start in (0, 2):
    tracker = open_tracker("trackio", Path(sys.argv[1]), {"seed": 0})
    for step in range(start, start + 2):
        tracker.log(step, {"reward/mean": step / 4, "policy/kl_reference": None})
    tracker.table(start, [{"reward": 1.0, "prompt": "p", "completion": "c"}])
    tracker.close()
"""


def test_trackio_keeps_one_run_over_a_resume_without_a_network(tmp_path):
    """In a process of its own: Trackio reads its folder from the environment when it is imported."""
    pytest.importorskip("trackio")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "store"), "HF_HUB_OFFLINE": "1"}
    run = tmp_path / "quickstart"
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO_RUN, str(run)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""  # stdout belongs to the display
    read = (
        "from trackio.sqlite_storage import SQLiteStorage as S\n"
        "for run in S.get_runs('alignkit'): print(run, [l['reward/mean'] for l in S.get_logs('alignkit', run)"
        " if 'reward/mean' in l])"
    )
    shown = subprocess.run([sys.executable, "-c", read], env=environment, capture_output=True, text=True, timeout=120)
    name = f"quickstart-{(run / 'tracker_id').read_text()}"
    assert shown.stdout.splitlines() == [f"{name} [0.0, 0.25, 0.5, 0.75]"], shown.stderr


class StandIn(types.ModuleType):
    """Records the calls that the wandb interface gets."""

    def __init__(self):
        super().__init__("wandb")
        self.calls = []

    def init(self, **options):
        print("greetings")
        self.calls.append(("init", options))
        return self

    def log(self, values, *, step):
        self.calls.append(("log", step, values))

    def finish(self):
        self.calls.append(("finish",))

    def Table(self, *, columns, data):  # the library's name
        return ("table", columns, data)


def test_wandb_gets_the_config_the_numbers_and_the_same_run_after_a_resume(tmp_path, monkeypatch, capsys):
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for _ in range(2):
        tracker = open_tracker("wandb", tmp_path / "run", {"seed": 3})
        tracker.log(5, {"reward/mean": 0.5, "policy/entropy": None})
        tracker.table(5, ROWS)
        tracker.close()
        tracker.close()
    first, second = [options for call, *rest in wandb.calls if call == "init" for options in rest]
    identity = (tmp_path / "run" / "tracker_id").read_text()
    assert first == second
    assert (first["id"], first["name"], first["config"]) == (identity, f"run-{identity}", {"seed": 3})
    assert wandb.calls[1] == ("log", 5, {"reward/mean": 0.5})
    assert wandb.calls[2][2]["completions"] == (
        "table",
        ["reward", "prompt", "completion"],
        [[1.0, "2+2?", ROWS[0]["completion"]]],
    )
    assert [call[0] for call in wandb.calls].count("finish") == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["wandb", "trackio", "tensorboard"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(ContentError, match=rf"run `pip install {kind}` or set tracker: none"):
        open_tracker(kind, Path(tmp_path), {})
