"""Bounds on processor time that mean the same on every processor and beside any neighbours."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

REFERENCE_S = 0.05  # what the loop takes on the processor on which the bounds were measured
TRIES = 3  # neighbours who share caches have made one call in a thousand take three times its processor time


def pace() -> float:
    """Factor for a bound: 1 on a processor as fast as that one or faster, 3 on one that takes three times as long.

    Taken in processor time at the moment of asking, so that neighbours who share caches and threads count as well.
    """

    def loop() -> None:
        total = 0
        for number in range(1_000_000):
            total += number % 7

    return max(1.0, cpu_s(loop) / REFERENCE_S)


def cpu_s(action: Callable[[], object]) -> float:
    """Seconds of this process's processor time that the call takes; garbage of other tests is not looked for in it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        begun = time.process_time()
        action()
        return time.process_time() - begun
    finally:
        if was_on:
            gc.enable()


def takes_at_most(seconds: float, action: Callable[[], object]) -> bool:
    """Whether one of three calls takes no more, in processor time of the reference processor."""
    return any(_within(cpu_s(action), seconds) for _ in range(TRIES))


def is_linear(action: Callable[[int], object], size: int) -> bool:
    """Whether, in one of three tries, action(size) takes less than eight times as long as action(size / 4), and half
    a second; one that is quadratic takes sixteen times as long."""

    def once() -> bool:
        taken = cpu_s(lambda: action(size))
        return taken < 0.5 or _within(taken - 8 * cpu_s(lambda: action(size // 4)), 0.5)

    return any(once() for _ in range(TRIES))


def _within(taken: float, seconds: float) -> bool:
    """The pace is 1 or more, and only asked where it decides: its loop takes longer than most of what is timed."""
    return taken < seconds or taken < seconds * pace()
