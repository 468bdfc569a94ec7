"""The door to the disk: whatever room there is, a write is whole or leaves what was there, and says why in one line."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alignkit.errors import CheckpointError, StorageError
from alignkit.parallel.group import Group
from alignkit.run_folder import json_lines
from alignkit.run_folder.run_folder import RunFolder
from alignkit.train.checkpoint import newest, save
from alignkit.train.state import State
from alignkit.types.files import append_line, make_folder, replace_atomically, save_tensors, write_atomically

OLD, NEW = "old\n" * 300, "new\n" * 700


def with_room_for(size: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a child whose files may have `size` bytes; whether a StorageError ended it."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            work()
            code = 0
        except StorageError as error:
            code = 1 if "could not be written (File too large; " in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 1), code
    return code == 1


def test_a_file_is_the_old_or_the_new_one_for_every_room_there_is(tmp_path, record_property):
    file, refused = tmp_path / "result.json", []
    for size in range(0, len(NEW) + 100, 97):
        file.write_text(OLD)
        refused.append(with_room_for(size, lambda: write_atomically(file, NEW)))
        assert file.read_text() == (OLD if refused[-1] else NEW)
        assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert refused == [size < len(NEW) for size in range(0, len(NEW) + 100, 97)]
    record_property("tries", len(refused))


def test_a_line_is_there_or_not_for_every_room_there_is(tmp_path):
    file = tmp_path / "metrics.jsonl"
    first, line = b'{"step": 0}\n', b'{"step": 1, "more": 123}'
    for size in range(len(first), len(first) + len(line) + 3):
        for torn in (b"", b'{"step"'):
            file.write_bytes(first + torn)
            refused = with_room_for(size, lambda: append_line(file, line))
            assert refused == (size < len(first) + len(line) + 1)
            assert file.read_bytes() == (first if refused else first + line + b"\n")


def test_tensors_are_the_old_or_the_new_ones_for_every_room_there_is(tmp_path):
    file = tmp_path / "stage-1-first.safetensors"
    for size in (0, 40, 300, 700, 4000):
        save_tensors({"w": torch.zeros(100)}, file)
        before = file.read_bytes()
        refused = with_room_for(
            size, lambda: replace_atomically(file, lambda place: save_tensors({"w": torch.ones(200)}, place))
        )
        assert refused == (size < 800)
        assert (file.read_bytes() == before) == refused
        assert os.listdir(tmp_path) == [file.name]


def mount(place: Path, kib: int, *, again: bool = False) -> None:
    """A file system of so many KiB at `place`; skipped where that is not allowed."""
    place.mkdir(exist_ok=True)
    options = f"{'remount,' if again else ''}size={kib}k"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")


class Weights:
    def save(self, folder: Path) -> None:
        save_tensors({"w": torch.ones(3000)}, folder / "model.safetensors")


def write_step(folder: RunFolder, step: int) -> None:
    folder.consumed(step, ["task"] * 40)
    folder.evaluation(step, [{"task_id": "t" * 500, "correct": True}])
    folder.metrics(step, {"reward/mean": 0.5})


@pytest.mark.parametrize("kib", range(16, 96, 8))
def test_a_run_on_a_small_disk_loses_only_what_was_being_written_and_goes_on_with_room(tmp_path, kib):
    place = tmp_path / "disk"
    mount(place, kib)
    try:
        folder, step, kept, refused = RunFolder(place / "run"), 0, 0, []
        while len(refused) < 4 and step < 100:
            try:
                write_step(folder, step)
            except StorageError as error:
                refused.append(str(error))
                break
            step += 1
            try:
                state = State(done=step)
                save(place / "checkpoints", state, recipe="{}", parts={"": Weights()}, group=Group(), keep=1)
                kept = step
            except CheckpointError as error:
                refused.append(str(error))
        assert refused
        assert all("could not be written (No space left on device; " in sentence for sentence in refused)
        assert not list(place.rglob("*.tmp")) + list(place.rglob("*.unfinished"))
        assert [record["step"] for record in json_lines.read(folder.metrics_file)] == list(range(step))
        found = newest(place / "checkpoints", report=pytest.fail)
        assert (found.name if found else None) == (f"step-{kept:06d}" if kept else None)
        mount(place, 2000, again=True)
        folder.truncate(kept)
        for again in range(kept, kept + 3):
            write_step(folder, again)
        for file in (folder.metrics_file, folder.ledger_file):
            assert [record["step"] for record in json_lines.read(file)] == list(range(kept + 3))
    finally:
        subprocess.run(["umount", place], check=False)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / ("x" * 300), "could not be written (File name too long): the name is too long"),
        (lambda folder: folder / "file" / "run", "(Not a directory): a file stands where a folder is wanted"),
        (lambda folder: folder / "file", "(File exists): a file stands where a folder is wanted"),
    ],
)
def test_a_folder_that_cannot_be_made_is_a_wrong_input_with_its_cure(tmp_path, make, says):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        make_folder(make(tmp_path))
    assert says in str(caught.value)
    assert caught.value.exit_code == 2
    assert (tmp_path / "file").read_text() == "in the way"


def test_what_the_disk_answered_stays_with_the_error(tmp_path):
    with pytest.raises(StorageError) as caught:
        write_atomically(tmp_path / "no" / "folder.json", "x")
    assert caught.value.errno == errno.ENOENT
