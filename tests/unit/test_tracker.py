"""Trackers: TensorBoard and Trackio for real, read back from disk; Weights & Biases through a stand-in module."""

import ast
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from alignkit.errors import ContentError
from alignkit.report.tracker import open_tracker

ROWS = [
    {
        "step": 2,
        "task": "t/0",
        "reward": 1.0,
        "parts": {"exact": 1.0, "style": None},
        "advantage": 0.5,
        "stop": "length",
    }
    | {"prompt": "2+2?", "completion": "<b>4</b> | `x`\n\x1b[31m"},
    {
        "step": 2,
        "task": "t/1",
        "reward": None,
        "parts": {},
        "advantage": math.nan,
        "prompt": "p",
        "completion": "c" * 9999,
    },
]


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
    head, _, first, second = text.splitlines()
    assert head == "| step | task | reward | parts | advantage | stop | prompt | completion |"
    told = '| 2 | t/0 | 1 | {"exact": 1.0, "style": null} | 0.5 | length | 2+2? |'
    assert first == f"{told} &lt;b>4&lt;/b> \\| 'x'⏎�[31m |"
    assert second.startswith("| 2 | t/1 |  | {} |  |  | p | ccc")  # no reward is no number, never 0
    assert "7,999 characters left out" in second
    assert len(second) < 2100


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
    tracker.table(start, [{"step": start, "task": "t/0", "reward": 1.0, "parts": {"exact": 1.0}, "prompt": "p",
                           "completion": "</script>\x1b[31m"}, {"step": start, "reward": None}])
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
        " if 'reward/mean' in l])\n"
        "print([l['completions'] for l in S.get_logs('alignkit', run) if 'completions' in l][0]['_value'][0])"
    )
    shown = subprocess.run([sys.executable, "-c", read], env=environment, capture_output=True, text=True, timeout=120)
    name = f"quickstart-{(run / 'tracker_id').read_text()}"
    curve, table = shown.stdout.splitlines()
    assert curve == f"{name} [0.0, 0.25, 0.5, 0.75]", shown.stderr
    row = ast.literal_eval(table)
    assert (row["step"], row["task"], row["reward"], row["parts"]) == (0.0, "t/0", 1.0, '{"exact": 1.0}')
    assert row["completion"] == "</script>\x1b[31m"


class StandIn(types.ModuleType):
    """Takes the calls that the wandb interface gets, and refuses more than the library does: columns of two kinds,
    numbers that JSON has not, steps that go back, anything after the end."""

    def __init__(self):
        super().__init__("wandb")
        self.calls, self.last, self.open = [], -1, False

    def init(self, **options):
        assert not self.open
        print("greetings")
        json.dumps(options["config"], allow_nan=False)
        self.calls.append(("init", options))
        self.last, self.open = -1, True
        return self

    def log(self, values, *, step):
        assert self.open
        assert step >= self.last
        self.last = step
        assert all(isinstance(value, float) and math.isfinite(value) for name, value in values.items() if "/" in name)
        self.calls.append(("log", step, values))

    def finish(self):
        self.open = False
        self.calls.append(("finish",))

    def Table(self, *, columns, data):  # the library's name
        assert all(len(row) == len(columns) for row in data)
        for column in zip(*data, strict=True):
            kinds = {type(value) for value in column if value is not None}
            assert kinds <= {float} or kinds <= {str}
            assert all(math.isfinite(value) for value in column if isinstance(value, float))
        return ("table", columns, data)


def test_wandb_gets_the_config_the_numbers_and_the_same_run_after_a_resume(tmp_path, monkeypatch, capsys):
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for _ in range(2):
        tracker = open_tracker("wandb", tmp_path / "run", {"seed": 3})
        tracker.log(5, {"reward/mean": 0.5, "policy/entropy": None, "policy/kl_sampler": math.inf})
        tracker.table(5, ROWS)
        tracker.close()
        tracker.close()
    first, second = [options for call, *rest in wandb.calls if call == "init" for options in rest]
    identity = (tmp_path / "run" / "tracker_id").read_text()
    assert first == second
    assert (first["id"], first["name"], first["config"]) == (identity, f"run-{identity}", {"seed": 3})
    assert wandb.calls[1] == ("log", 5, {"reward/mean": 0.5})
    _, columns, (row, unscored) = wandb.calls[2][2]["completions"]
    assert dict(zip(columns, row, strict=True)) == {
        **ROWS[0],
        "step": 2.0,
        "parts": '{"exact": 1.0, "style": null}',
    }
    assert dict(zip(columns, unscored, strict=True))["reward"] is None
    assert dict(zip(columns, unscored, strict=True))["advantage"] is None
    assert [call[0] for call in wandb.calls].count("finish") == 2
    assert capsys.readouterr().out == ""


WANDB_RUN = """
import sys
from pathlib import Path
from alignkit.report.tracker import open_tracker
tracker = open_tracker("wandb", Path(sys.argv[1]), {"seed": 0})
for step in range(2):
    tracker.log(step, {"reward/mean": step / 4, "policy/kl_reference": None})
    tracker.table(step, [{"step": step, "task": "t", "reward": 1.0, "parts": {"a": None}, "prompt": "p"},
                         {"step": step, "reward": None, "advantage": -0.5}])
tracker.close()
"""


@pytest.mark.slow
def test_wandb_itself_takes_numbers_and_tables_without_a_network(tmp_path):
    pytest.importorskip("wandb")
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    run = tmp_path / "quickstart"
    done = subprocess.run(
        [sys.executable, "-c", WANDB_RUN, str(run)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    tables = sorted(run.glob("wandb/offline-run-*/files/media/table/completions_*.table.json"))
    told = [json.loads(table.read_text()) for table in tables]
    assert sorted(table["data"][0][0] for table in told) == [0.0, 1.0]
    assert told[0]["columns"][2:4] == ["reward", "parts"]
    assert told[0]["data"][1][2] is None


@pytest.mark.parametrize("kind", ["wandb", "trackio", "tensorboard"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(ContentError, match=rf"run `pip install {kind}` or set tracker: none"):
        open_tracker(kind, Path(tmp_path), {})
