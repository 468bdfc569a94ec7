"""Keeps a child's family together, so that nothing of it outlives it: `python -m ...keeper`.

A child that calls setsid leaves its process group, and one whose parent ended is handed to whoever adopts orphans. So
two keepers stand between the parent and the child, and each adopts (PR_SET_CHILD_SUBREAPER) what is orphaned beneath
it. When the child ends, or the parent does, they kill all that is left; there are two because one of them may be killed
as well. They hold no secrets, run no foreign code and end as the child ended.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Never

from alignkit.processes.family import adopt_orphans, end_with, kill_descendants

WATCHED = {signal.SIGCHLD, signal.SIGTERM}
OUT_OF_MEMORY = 86  # the exit code of a worker whose memory limit ended it
FATAL_WITHOUT_MEMORY = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGTRAP)


def main() -> None:
    """Arguments: the parent's process id, a limit of memory in bytes, a module, and what its `main` is told.

    The limit is for what each process writes to (RLIMIT_DATA): libraries and mapped weights do not count. It is a guard
    and no wall: an engine that a reward starts raises it again, since it has settings of its own.
    """
    parent, memory_bytes, module, *arguments = sys.argv[1:]
    _limit_memory(int(memory_bytes))
    if sys.platform == "linux":
        held = _last_family_member(int(parent))
        held = _last_family_member(held)
        end_with(held, signal.SIGKILL)
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory runs out, a worker goes before the trainer
    elif os.getppid() != int(parent):
        sys.exit()
    importlib.import_module(module).main(*arguments)


def _limit_memory(memory_bytes: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    bound = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))


def exit_code(status: int, peak_kib: int) -> int:
    """A wait status as an exit code; negative for a signal. OUT_OF_MEMORY when it died near its memory limit."""
    code = os.waitstatus_to_exitcode(status)
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if code < 0 and -code in FATAL_WITHOUT_MEMORY and limit != resource.RLIM_INFINITY and peak_kib * 2048 > limit:
        return OUT_OF_MEMORY
    return code


def _last_family_member(parent: int) -> int:
    """Forks. The parent stays behind as a keeper and never returns; the child returns the keeper's id."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    adopt_orphans()
    end_with(parent, signal.SIGTERM)
    keeper = os.getpid()
    child = os.fork()
    if child:
        _keep(child)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return keeper


def _keep(child: int) -> Never:
    """Waits until the child ends or the parent does, buries all that is left, and ends as the child did."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the pool sees by the worker's channel that it is gone
    ended = None
    while ended is None and signal.sigwait(WATCHED) == signal.SIGCHLD:
        ended = _reap(child)
    kill_descendants(os.getpid())
    code = 1 if ended is None else ended
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        with suppress(OSError):  # that one cannot be handled differently
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _reap(child: int) -> int | None:
    """Buries all children that have ended; how `child` did, when it was among them."""
    ended = None
    with suppress(ChildProcessError):
        while True:
            process, status, used = os.wait4(-1, os.WNOHANG)
            if process == 0:
                break
            if process == child:
                ended = exit_code(status, used.ru_maxrss)
    return ended


if __name__ == "__main__":
    main()
