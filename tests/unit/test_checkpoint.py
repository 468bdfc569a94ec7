"""Checkpoints: killed between any two file operations, damaged, on a full disk; what was whole before stays whole."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignkit.errors import CheckpointError
from alignkit.parallel.group import Group
from alignkit.train import checkpoint
from alignkit.train.checkpoint import complete, newest, read_state, save, verify
from alignkit.train.state import State
from tests.tiny import on_ranks

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


class Files:
    """A Trainer that keeps its content in two files, one of them in a folder as sharded trainers have it."""

    model: Any = None

    def __init__(self, content: str = "weights"):
        self.content = content

    def save(self, folder: Path) -> None:
        (folder / "model.safetensors").write_text(self.content * 20)
        (folder / "shard-0").mkdir()
        (folder / "shard-0" / "optimizer.safetensors").write_text(f"moments of {self.content}")


def write(root: Path, done: int, *, keep: int = 2, trainer: Any = None, group: Group | None = None) -> Path:
    state = State(done=done, step=done, version=2 * done, cursor=16 * done)
    trainer = trainer or Files(f"weights of {done}")
    return save(root, state, recipe="{}", parts={"": trainer}, group=group or Group(), keep=keep)


def silent(sentence: str) -> None:
    pytest.fail(f"unexpected report: {sentence}")


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def killed_before_change(number: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a child that is killed with SIGKILL just before its file change `number`; False if it got through.

    Changes are files opened for writing, renames, and what makes or removes a file or folder.
    """
    child = os.fork()
    if child == 0:
        left = number

        def count(event: str, arguments: tuple) -> None:
            nonlocal left
            opens = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if opens or event in CHANGES:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def after_every_crash(tmp_path: Path, prepare: Callable[[Path], object], work: Callable[[Path], object]):
    """Yields the folder as each crash of `work` left it, from no change done to all of them."""
    number, killed = 0, True
    while killed:
        root = tmp_path / str(number) / "checkpoints"
        root.parent.mkdir()
        prepare(root)
        killed = killed_before_change(number, lambda root=root: work(root))
        yield root
        number += 1
    assert number > 10  # the hook did see the file operations


def nothing(root: Path) -> None:
    pass


def test_a_crash_during_the_first_checkpoint_leaves_none_or_a_whole_one(tmp_path):
    found = []
    for root in after_every_crash(tmp_path, nothing, lambda root: write(root, 5)):
        last = newest(root, report=silent)
        found.append(last is not None)
        if last is not None:
            assert (last / "model.safetensors").read_text() == "weights of 5" * 20
        assert newest_after_a_second_try(root, 5) == 5
    assert found == sorted(found)  # once there, it stays
    assert found[-1]


def newest_after_a_second_try(root: Path, done: int) -> int:
    """The resumed run writes the same checkpoint, whatever the crash left lying about."""
    write(root, done, keep=1)
    last = newest(root, report=silent)
    assert last is not None
    return read_state(last).done


def test_a_crash_while_the_next_one_replaces_the_only_one_leaves_one_of_them_whole(tmp_path):
    found = []
    for root in after_every_crash(tmp_path, lambda root: write(root, 10), lambda root: write(root, 20, keep=1)):
        reports: list[str] = []
        last = newest(root, report=reports.append)
        assert last is not None
        done = read_state(last).done
        assert (last / "model.safetensors").read_text() == f"weights of {done}" * 20
        assert done == 20 or reports == []
        found.append(done)
        assert newest_after_a_second_try(root, 20) == 20
        assert [path.name for path in complete(root)] == ["step-000020"]
    assert found == sorted(found)
    assert set(found) == {10, 20}


def test_a_crash_while_the_only_checkpoint_is_written_again_leaves_one_whole(tmp_path):
    """A run that is resumed at its last step writes that step's checkpoint a second time."""

    def again(root: Path) -> None:
        write(root, 10, keep=1, trainer=Files("written again"))

    for root in after_every_crash(tmp_path, lambda root: write(root, 10), again):
        last = newest(root, report=lambda sentence: None)
        assert last is not None
        assert (last / "model.safetensors").read_text() in ("weights of 10" * 20, "written again" * 20)
        again(root)
        assert names(root) == ["step-000010"]
        assert (root / "step-000010" / "model.safetensors").read_text() == "written again" * 20


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


def test_any_flipped_bit_of_any_file_is_found_and_the_checkpoint_before_is_used(tmp_path, record_property):
    write(tmp_path, 10)
    damaged = write(tmp_path, 20)
    rng = np.random.default_rng(0)
    files = sorted(file for file in damaged.rglob("*") if file.is_file())
    record_property("tries", 40 * len(files))
    for path in files:
        content = path.read_bytes()
        for bit in rng.integers(8 * len(content), size=40).tolist():
            flip(path, bit)
            reports: list[str] = []
            used = newest(tmp_path, report=reports.append)
            assert used is not None, (path, bit)
            assert used.name == "step-000010", (path, bit)
            assert len(reports) == 1
            assert reports[0].startswith("step-000020 is damaged (")
            path.write_bytes(content)
    assert verify(damaged) is None
    assert newest(tmp_path, report=silent) == damaged


def test_a_damaged_file_is_named_and_so_are_missing_and_cut_ones(tmp_path):
    folder = write(tmp_path, 10)
    shard = folder / "shard-0" / "optimizer.safetensors"
    flip(shard, 17)
    assert verify(folder) == "shard-0/optimizer.safetensors has changed"
    shard.write_text("")
    assert verify(folder) == "shard-0/optimizer.safetensors has changed"
    shard.unlink()
    assert verify(folder) == "shard-0/optimizer.safetensors is missing"
    (folder / "manifest.json").write_text("")
    assert verify(folder) == "manifest.json cannot be read: JSONDecodeError"
    (folder / "manifest.json").unlink()
    assert verify(folder) == "manifest.json cannot be read: FileNotFoundError"


def test_when_all_are_damaged_each_is_named_and_a_folder_without_any_is_a_beginning(tmp_path):
    for done in (10, 20):
        (write(tmp_path, done) / "state.json").unlink()
    reports: list[str] = []
    with pytest.raises(CheckpointError) as caught:
        newest(tmp_path, report=reports.append)
    assert [report.split()[0] for report in reports] == ["step-000020", "step-000010"]
    said = "step-000020 (state.json is missing); step-000010 (state.json is missing). Nothing was changed; put"
    assert said in str(caught.value)
    assert newest(tmp_path / "no such folder", report=silent) is None


class FullDisk(Files):
    def __init__(self, number: int = errno.ENOSPC):
        self.number = number

    def save(self, folder: Path) -> None:
        (folder / "model.safetensors").write_text("half of it")
        raise OSError(self.number, os.strerror(self.number))


def test_a_full_disk_is_one_sentence_and_costs_no_earlier_checkpoint(tmp_path):
    write(tmp_path, 10)
    with pytest.raises(CheckpointError) as caught:
        write(tmp_path, 20, trainer=FullDisk())
    sentence = str(caught.value)
    free = shutil.disk_usage(tmp_path).free / 2**20
    assert "could not be written (No space left on device; " in sentence
    assert float(sentence.split("; ")[1].split(" MiB free")[0]) == pytest.approx(free, rel=0.2)
    assert sentence.endswith("free some space or set checkpoints.keep lower")
    assert names(tmp_path) == ["step-000010"]
    last = newest(tmp_path, report=silent)
    assert last is not None
    assert read_state(last).done == 10


def test_a_disk_that_fills_up_at_the_manifest_leaves_nothing_behind_either(tmp_path, monkeypatch):
    write_text = Path.write_text

    def full(path: Path, *args: Any, **options: Any) -> int:
        if path.name == "manifest.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_text(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write(tmp_path, 20)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_the_same_kind_of_sentence(tmp_path):
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(CheckpointError, match=r"could not be written \(Not a directory|File exists"):
        write(tmp_path / "checkpoints", 20)


def test_a_forbidden_write_has_another_cure_than_a_full_disk(tmp_path):
    with pytest.raises(CheckpointError, match=r"Permission denied.*check the folder's permissions"):
        write(tmp_path, 20, trainer=FullDisk(errno.EACCES))


def test_a_full_disk_of_one_rank_is_told_to_all_and_nobody_waits(tmp_path):
    def work(group: Group, model: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            write(tmp_path, 20, group=group, trainer=FullDisk() if group.rank == 1 else Rank(group.rank))
        return str(caught.value)

    first, second = on_ranks(2, work, None)  # ty: ignore[invalid-argument-type]  no model is needed
    assert first == second
    assert "No space left" in first
    assert names(tmp_path) == []


class Rank(Files):
    def __init__(self, rank: int):
        self.rank = rank

    def save(self, folder: Path) -> None:
        (folder / f"model-{self.rank}.safetensors").write_text(f"share {self.rank}")


def test_all_ranks_write_into_one_checkpoint_whose_manifest_has_all_their_files(tmp_path):
    on_ranks(3, lambda group, _: write(tmp_path, 20, group=group, trainer=Rank(group.rank)), None)  # ty: ignore[invalid-argument-type]
    last = newest(tmp_path, report=silent)
    assert last is not None
    assert [f"model-{i}.safetensors" for i in range(3)] == [p.name for p in sorted(last.glob("model-*"))]
    (last / "model-2.safetensors").unlink()
    assert verify(last) == "model-2.safetensors is missing"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path, keep):
    for done in (5, 10, 15, 20):
        write(tmp_path, done, keep=keep)
    assert [path.name for path in complete(tmp_path)] == [f"step-{done:06d}" for done in (5, 10, 15, 20)[-keep:]]


def test_a_damaged_newer_checkpoint_does_not_push_the_one_just_written_out(tmp_path):
    """The run fell back from step 20 to step 10 and has now reached 15, keeping one."""
    write(tmp_path, 10)
    flip(write(tmp_path, 20) / "state.json", 3)
    write(tmp_path, 15, keep=1)
    last = newest(tmp_path, report=lambda sentence: None)
    assert last is not None
    assert read_state(last).done == 15
    write(tmp_path, 20, keep=1)
    assert names(tmp_path) == ["step-000020"]


def test_an_unfinished_folder_of_a_killed_run_is_no_checkpoint_and_is_cleared_away(tmp_path):
    (tmp_path / "step-000020.unfinished" / "shard-0").mkdir(parents=True)
    (tmp_path / "step-000020.unfinished" / "stale").write_text("left over")
    assert complete(tmp_path) == []
    folder = write(tmp_path, 20)
    assert not (folder / "stale").exists()
    assert names(tmp_path) == ["step-000020"]


def test_the_state_comes_back_as_it_was_written(tmp_path):
    state = State(stage=1, step=7, done=12, version=24, cursor=192, health={"dead": 3, "seen": [0.1, None, 1e-17]})
    save(tmp_path, state, recipe='{"seed": 3}', parts={"": Files()}, group=Group(), keep=1)
    last = newest(tmp_path, report=silent)
    assert last is not None
    assert read_state(last) == state
    assert (last / "recipe.json").read_text() == '{"seed": 3}'


def test_a_mistake_in_the_program_is_not_taken_for_a_full_disk(tmp_path):
    class Broken(Files):
        def save(self, folder: Path) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(tmp_path, 20, trainer=Broken())
    assert checkpoint.complete(tmp_path) == []
