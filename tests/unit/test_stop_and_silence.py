"""A run that is told to stop, and one that nobody can hear: neither loses anything."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from alignkit.cli import main
from alignkit.errors import StorageError
from alignkit.parallel.group import Group
from alignkit.report.terminal import JsonDisplay, PanelDisplay, PlainDisplay, open_display
from alignkit.run.launch.launched import run_launched
from alignkit.run.train.journal import Journal
from alignkit.run.train.stop import Stop
from alignkit.run_folder.run_folder import RunFolder
from alignkit.types.files import disk_error


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_sigterm_before_a_step_leaves_with_85_and_afterwards_only_asks(capfd):
    with Stop() as stop:
        with pytest.raises(SystemExit) as caught:
            send(signal.SIGTERM)
        assert (caught.value.code, stop.asked) == (85, True)
    with Stop() as stop:
        stop.stepping = True
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "SIGTERM: stopped before a step began; go on with --resume"
    assert said[1:] == ["SIGTERM: finishing this step, then a checkpoint"] * 2


def test_the_first_control_c_asks_and_the_second_ends_it(capfd):
    with Stop() as stop:
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)  # before a step there is nothing to wait for
        stop.asked, stop.stepping = False, True
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_launch_that_is_stopped_before_its_processes_begin_ends_with_85():
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    assert run_launched([sys.executable, "-c", code]) == 85
    assert run_launched([sys.executable, "-c", "raise SystemExit(7)"]) == 7


RECORD = {"stage": "main", "step": 0, "reward/mean": 0.5}


@pytest.mark.parametrize("kind", ["plain", "json", "panel", "none"])
def test_a_display_whose_disk_is_full_goes_silent(kind, monkeypatch):
    with open("/dev/full", "w", buffering=1) as stream:
        if kind == "panel":
            from rich.console import Console

            display: Any = PanelDisplay(Console(file=stream, force_terminal=True))
        elif kind == "none":
            monkeypatch.setattr(sys, "stdout", None)
            display = open_display(json=True)
        else:
            display = {"plain": PlainDisplay, "json": JsonDisplay}[kind](stream)
        display.message("before it starts")
        display.start(3, "run")
        display.step(RECORD)
        display.message("an evaluation")
        display.close()
        with pytest.raises(OSError, match="No space left"):  # the stream itself does refuse
            print("x" * 10000, file=stream, flush=True)
        monkeypatch.setattr(stream, "write", lambda text: None, raising=False)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_an_event_without_room_is_shown_and_lost_and_a_tracker_is_given_up(tmp_path, monkeypatch):
    shown = io.StringIO()
    journal = Journal(folder=RunFolder(tmp_path), group=Group(), display=PlainDisplay(shown))

    class Full:
        def log(self, step: int, metrics: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    journal.tracker = Full()  # ty: ignore[invalid-assignment]
    journal.evaluation(0, "main", [], {"eval/accuracy": 0.5, "eval/reward_mean": 0.5, "eval/tasks": 2})
    assert journal.tracker is None

    def refuse(kind: str, **fields: Any) -> None:
        raise StorageError(f"{tmp_path}/events.jsonl could not be written")

    monkeypatch.setattr(journal.folder, "event", refuse)
    journal.report("a sentence")
    lines = shown.getvalue().splitlines()
    assert lines[0].startswith("the tracker is given up, metrics.jsonl has everything: [Errno 28]")
    assert lines[-2:] == ["a sentence", f"{tmp_path}/events.jsonl could not be written"]
    (event, evaluated) = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert "tracker" in event["text"]
    assert evaluated["text"].startswith("evaluation after 0 steps")


class LibraryError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "/x/y could not be written (No space left on "),
        (LibraryError("I/O error: No space left (os error 28)"), 2, "a file could not be written (No space left on"),
        (
            OSError(errno.EROFS, "Read-only file system", "/x"),
            2,
            "/x could not be written (Read-only file system): the",
        ),
        (OSError(errno.ECONNREFUSED, "Connection refused"), 1, "alignkit failed: ConnectionRefusedError"),
        (ValueError("os error of mine"), 1, "alignkit failed: ValueError: os error of mine"),
    ],
)
def test_what_the_disk_refuses_is_a_wrong_input_wherever_it_happens(error, code, says, monkeypatch, capsys):
    def app(**options: Any) -> None:
        raise error

    monkeypatch.setattr(main, "command", lambda: app)
    assert main.run(["anything"]) == code
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_only_answers_about_files_count_as_the_disks():
    assert disk_error(LibraryError("(os error 104)")) is None
    found = disk_error(LibraryError("while writing: (os error 122)"))
    assert found is not None
    assert found.errno == errno.EDQUOT


def test_a_program_started_with_closed_streams_gives_their_numbers_to_no_file(tmp_path: Path):
    child = os.fork()
    if child == 0:
        for number in (0, 1, 2):
            os.close(number)
        main._open_standard_streams()
        os._exit(os.open(tmp_path / "metrics.jsonl", os.O_WRONLY | os.O_CREAT))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) > 2
