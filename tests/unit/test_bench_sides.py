"""The processes of a benchmark: what is measured of them, and what is said when one dies."""

from __future__ import annotations

import itertools
from contextlib import closing

import psutil
import pytest

from benchmarks import process_tree
from benchmarks.side import Side, SideDied
from tests.unit import bench_sides

MIB = 2**20


def start(tmp_path, serve=bench_sides.obedient, **options):
    return closing(Side(serve, name="TRL", log_file=tmp_path / "side.log", **options))


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("how", "cause", "last_words"),
    [
        ("killed", "ended by signal 9 (SIGKILL, as the kernel does when memory runs out)", "last words of the side"),
        ("exit", "exit code 3", "last words of a library"),
        ("fault", "exit code 1", "RuntimeError: vLLM is gone"),
    ],
)
def test_a_side_that_dies_is_named_with_its_command_cause_memory_and_last_words(tmp_path, how, cause, last_words):
    with start(tmp_path) as side, pytest.raises(SideDied) as death:
        side(("die", how))
    text = str(death.value)
    assert text.startswith(f"TRL died at `die`: {cause}; its peak memory was 0.")
    assert text.endswith(last_words)
    total = psutil.virtual_memory().total / 2**30
    assert f" of the machine's {total:.1f} GiB" in text


def test_a_side_that_does_not_even_start_says_so(tmp_path):
    with pytest.raises(SideDied, match=r"TRL died at its start: exit code 1(.|\n)*OSError: no such model"):
        start(tmp_path, bench_sides.stillborn)


def test_a_side_that_left_between_two_turns_is_noticed_at_the_second(tmp_path):
    with start(tmp_path, bench_sides.leaves_after_its_first_turn) as side:
        assert side("hello").value == "hello"
        side._process.join()
        with pytest.raises(SideDied, match="TRL died at `hello`: exit code 4"):
            side("hello")


def test_a_side_is_stopped_before_the_machine_has_no_memory_left(tmp_path, monkeypatch):
    """0.4 GiB are left a moment after the turn began."""
    with start(tmp_path) as side:
        answers = itertools.chain([2**40, 2**40], itertools.repeat(int(0.4 * 2**30)))
        monkeypatch.setattr(process_tree, "free_bytes", lambda: next(answers))
        with pytest.raises(
            SideDied, match=r"TRL died at `die`: stopped, because the machine had 0\.4 GiB of memory left"
        ):
            side(("die", "wait"))
        assert not alive(side._process.pid)


def test_the_peak_of_a_turn_counts_child_processes_and_nothing_of_earlier_turns(tmp_path):
    with start(tmp_path) as side:
        quiet = side("burn").peak_bytes
        held = side(("hold", 100))
        released = side("release")
        after = side("burn").peak_bytes
    assert held.peak_bytes > quiet + 80 * MIB
    assert released.peak_bytes > 100 * MIB, "it was there when the turn began"
    assert after < held.peak_bytes - 80 * MIB


def test_the_cpu_seconds_of_a_child_that_has_ended_count(tmp_path):
    with start(tmp_path) as side:
        assert round(side("burn").cpu_s, 6) >= 0.09


@pytest.mark.parametrize("how", [None, "killed"])
def test_no_process_of_a_side_outlives_it(tmp_path, how):
    with start(tmp_path) as side:
        child = side(("hold", 1)).value
        assert alive(child)
        if how:
            with pytest.raises(SideDied):
                side(("die", how))
            assert not alive(child), "its memory is free before the other side starts"
    assert not alive(child)
