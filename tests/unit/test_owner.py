"""One process at a time: the lock ends with the process, its file says who, and what a kill left behind is swept."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from alignkit.errors import StorageError
from alignkit.types import owner as module
from alignkit.types.owner import Owner
from alignkit.types.scratch import scratch, sweep


@contextmanager
def another_process(work) -> Iterator[int]:
    """A child that has done `work` and waits to be killed; its id."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            kept = [work()]
            os.write(tell, b"x")
            while kept:
                signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    assert os.read(ready, 1) == b"x"
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)


def test_a_folder_in_use_is_refused_with_its_owner_and_not_touched(tmp_path):
    file = tmp_path / "lock.json"
    with another_process(lambda: Owner(file)) as pid:
        before = (file.read_bytes(), file.stat().st_mtime_ns)
        said = json.loads(before[0])
        assert (said["pid"], said["host"]) == (pid, socket.gethostname())
        with pytest.raises(StorageError) as caught:
            Owner(file)
        assert str(caught.value).startswith(f"{tmp_path} is in use by process {pid} on {socket.gethostname()}, since 2")
        assert str(caught.value).endswith("wait for it, or stop it")
        assert caught.value.exit_code == 2
        assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    after_the_kill = Owner(file)
    assert after_the_kill.left is not None
    assert after_the_kill.left.pid == pid
    after_the_kill.release()


def test_a_released_folder_is_free_and_has_no_file(tmp_path):
    for _ in range(3):
        owner = Owner(tmp_path / "lock.json")
        assert owner.left is None
        owner.release()
        owner.release()
        assert os.listdir(tmp_path) == []


def test_a_file_that_says_nothing_is_no_owner(tmp_path):
    for content in (b"", b"{", b"[]", b'{"pid": "x"}'):
        (tmp_path / "lock.json").write_bytes(content)
        owner = Owner(tmp_path / "lock.json")
        assert owner.left is None
        owner.release()


@pytest.mark.parametrize(
    ("change", "lives"),
    [
        ({}, True),
        ({"pid": 2**22 + 1}, False),
        ({"born": 1}, False),
        ({"host": "another"}, True),
        ({"host": "another", "pid": 2**22 + 1}, True),
    ],
)
def test_where_there_are_no_locks_the_file_decides(tmp_path, monkeypatch, change, lives):
    """A process of this machine is looked for, by its number and its start; of another machine it is believed."""

    def no_locks(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module.fcntl, "flock", no_locks)
    file = tmp_path / "lock.json"
    first = Owner(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    if not lives:
        Owner(file).release()
        return
    cure = "or, when it is gone, remove lock.json" if "host" in change else "or stop it"
    with pytest.raises(StorageError, match=cure):
        Owner(file)
    first.release()


def test_an_owner_who_leaves_between_two_calls_is_no_owner(tmp_path, monkeypatch):
    """The file is taken away after it was opened: the lock on it would guard nothing."""
    file, flock, calls = tmp_path / "lock.json", fcntl.flock, []

    def slow(descriptor: int, how: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            file.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(module.fcntl, "flock", slow)
    owner = Owner(file)
    assert len(calls) == 2
    assert json.loads(file.read_text())["pid"] == os.getpid()
    owner.release()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_scratch_is_gone_at_the_end_and_a_killed_processs_at_the_next_start(temporary):
    def work() -> object:
        kept = scratch()
        folder = kept.__enter__()
        (folder / "initial-model").mkdir()
        (folder / "initial-model" / "model.safetensors").write_text("260 MB")
        return kept

    with another_process(work):
        (living,) = temporary.iterdir()
        assert sweep() == []
        with scratch("states-") as own:
            assert sorted(temporary.iterdir()) == sorted([living, own])
        assert list(temporary.iterdir()) == [living]
    with scratch() as own:
        assert list(temporary.iterdir()) == [own]
    assert list(temporary.iterdir()) == []


def test_what_nothing_proves_to_be_an_orphan_is_not_swept(temporary):
    (temporary / "alignkit-unowned").mkdir()
    (temporary / "alignkit-file").write_text("x")
    (temporary / "other-owner").mkdir()
    (temporary / "other-owner" / "owner.json").write_text("{}")
    victim = temporary / "victim"
    victim.mkdir()
    (victim / "owner.json").write_text("{}")
    (temporary / "alignkit-link").symlink_to(victim)
    assert sweep() == []
    assert len(list(temporary.iterdir())) == 5
    (temporary / "alignkit-unowned" / "owner.json").write_text("{}")
    assert sweep() == [temporary / "alignkit-unowned"]
