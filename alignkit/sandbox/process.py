"""Runs foreign Python programs in the sandbox and says what came of them. The verdict is made on this side.

One program is one fresh interpreter with an empty environment, an empty folder and no network. A program with tests is
two: the tests run in a sandbox of their own and see plain values only (sandbox/conversation.py), so that nothing the
program prints, patches, returns or exits with can pass for a right answer.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import stat
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Literal

from alignkit.errors import SandboxError
from alignkit.processes.clock import Clock
from alignkit.processes.session import kill_session, start_session
from alignkit.sandbox.bubblewrap import wrap
from alignkit.sandbox.isolation import PACKAGE_ROOT, Isolation, interpreter, readable_paths
from alignkit.sandbox.limits import Limits
from alignkit.types.scratch import scratch

START_DEADLINE_S = 30.0
KEPT_ERROR_BYTES = 64 << 10
LARGEST_VERDICT = 4096
SHORTEST_WAIT_S = 0.02
# a starved program gets at most 25 times its time; the kernel ends it after `wall_s` + 2 s of processor time
MOST_GRACE = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptRun:
    """How a script ended. exit_code: None when it was killed; a signal is 128 + its number. output: standard output.

    used_s: seconds that count against its limit.
    """

    ended: Literal["exit", "timeout", "output"]
    exit_code: int | None
    output: bytes
    errors: bytes
    used_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Tests for the functions of a program.

    tests: statements, run one after the other in one namespace. setup: trusted source before them. names: what the
    tests take from the program. check: one of `names`, to be handed to a function `check` that the tests define.
    """

    tests: tuple[str, ...]
    names: tuple[str, ...]
    setup: str = ""
    check: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the tests said. message: one line, empty when all is right."""

    outcome: Literal["right", "wrong", "crashed", "timeout", "gold_error"]
    message: str = ""


def run_script(source: str, *, stdin: str, limits: Limits, isolation: Isolation) -> ScriptRun:
    """Runs a program as `__main__` with `stdin`. Raises SandboxError when the sandbox could not be set up."""
    with ExitStack() as stack:
        given = stack.enter_context(tempfile.TemporaryFile())
        given.write(stdin.encode(errors="surrogatepass"))
        given.seek(0)
        job = {"kind": "script", "source": source}
        child = stack.enter_context(_started(job, limits, isolation, stdin=given, piped=True))
        child.wait_until_ready()
        return _watch(child.process, Clock([child.process.pid], limits.wall_s, most_grace=MOST_GRACE), limits)


def run_tests(program: str, suite: Suite, *, limits: Limits, isolation: Isolation) -> Verdict:
    """Runs a program's functions through its tests. Raises SandboxError when the sandbox could not be set up."""
    with ExitStack() as stack:
        one, other = socket.socketpair()
        result, result_in = os.pipe()
        results = stack.enter_context(open(result, "rb", buffering=0))
        with one, other, open(result_in, "wb") as result_file:
            judge_job = {"kind": "tests", **asdict(suite)}
            result_end = result_file.fileno()
            judge = stack.enter_context(_started(judge_job, limits, isolation, channel=one.fileno(), result=result_end))
            job = {"kind": "program", "source": program}
            child = stack.enter_context(_started(job, limits, isolation, channel=other.fileno()))
        judge.wait_until_ready()
        child.wait_until_ready()
        return _verdict(results, Clock([judge.process.pid, child.process.pid], limits.wall_s, most_grace=MOST_GRACE))


def _verdict(results: IO[bytes], clock: Clock) -> Verdict:
    said = _read_while(clock, results, LARGEST_VERDICT)
    if said is None:
        return Verdict(outcome="timeout", message=f"killed after {clock.limit_s:g} s")
    try:
        return Verdict(**json.loads(said))
    except (ValueError, TypeError):  # none at all, or one that is cut: whatever the program did, it is not right
        return Verdict(outcome="crashed", message="the answers to the tests ended the tests' process")


@dataclass(eq=False)
class _Child:
    process: subprocess.Popen
    report: IO[bytes]
    clock: Clock

    def wait_until_ready(self) -> None:
        said = _read_while(self.clock, self.report, KEPT_ERROR_BYTES)
        if said != b"ready":
            why = "it did not start in time" if said is None else said.decode(errors="replace") or "it died"
            raise SandboxError(f"the sandbox could not be set up: {why}; `alignkit doctor` shows what works here")


@contextmanager
def _started(
    job: dict[str, Any],
    limits: Limits,
    isolation: Isolation,
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    piped: bool = False,
    channel: int = -1,
    result: int = -1,
) -> Generator[_Child]:
    """A child that was given its job; it and all that it started are killed at the end."""
    output = subprocess.PIPE if piped else subprocess.DEVNULL
    readable = readable_paths()
    job |= {"isolation": asdict(isolation), "limits": asdict(limits), "readable": readable}
    job |= {"package_root": PACKAGE_ROOT}
    with ExitStack() as stack:
        start = stack.enter_context(_folder(isolation))
        job_file = stack.enter_context(tempfile.TemporaryFile())
        job_file.write(json.dumps(job).encode())
        job_file.seek(0)
        report, report_in = os.pipe()
        report_file = stack.enter_context(open(report, "rb", buffering=0))
        descriptors = [job_file.fileno(), report_in, channel, result]
        command = [*interpreter("main"), *map(str, [*descriptors, os.getpid()])]
        if isolation.bubblewrap is not None:
            own = [os.path.realpath(command[0]), f"{PACKAGE_ROOT}/alignkit/__init__.py"]
            own += [f"{PACKAGE_ROOT}/alignkit/sandbox"]
            command = wrap(isolation.bubblewrap, command, [*readable, *own])
        try:
            process = start_session(
                command,
                environment={"MALLOC_ARENA_MAX": "1"},  # or each thread takes 64 MiB of the memory limit
                handed=[number for number in descriptors if number >= 0],
                stdin=stdin,
                output=output,
                errors=output,
                folder=start,
            )
        except OSError as error:
            raise SandboxError(f"the sandbox could not be started: {error}") from error
        finally:
            os.close(report_in)
        try:
            yield _Child(process, report_file, Clock([process.pid], START_DEADLINE_S, most_grace=MOST_GRACE))
        finally:
            kill_session(process)


@contextmanager
def _folder(isolation: Isolation) -> Generator[str]:
    """Where the program starts. With a file system of its own it only hides this folder, so all share an empty one,
    and a killed worker leaves nothing behind; without, it leaves what the next start sweeps."""
    shared = f"{tempfile.gettempdir()}/alignkit-empty-{os.getuid()}"
    if isolation.namespaces or isolation.bubblewrap is not None:
        os.makedirs(shared, mode=0o700, exist_ok=True)
        found = os.lstat(shared)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
            yield shared
            return
    with scratch("sandbox-") as folder:
        own = folder / "program"  # beside the file that says whose folder it is
        own.mkdir()
        yield str(own)


def _watch(process: subprocess.Popen, clock: Clock, limits: Limits) -> ScriptRun:
    """Collects a script's output until it ends, says too much, or its time is up."""
    kept = {"output": bytearray(), "errors": bytearray()}
    with selectors.DefaultSelector() as selector:
        for name, pipe in (("output", process.stdout), ("errors", process.stderr)):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ, name)
        while selector.get_map():
            left = clock.left_s()
            if left <= 0:
                return _cut("timeout", kept, clock)
            events = selector.select(max(left, SHORTEST_WAIT_S))
            for key, _ in events:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                if key.data == "output" or len(kept["errors"]) < KEPT_ERROR_BYTES:
                    kept[key.data] += data
            if len(kept["output"]) > limits.output_bytes:
                return _cut("output", kept, clock)
    code = None
    while code is None and (left := clock.left_s()) > 0:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(max(left, SHORTEST_WAIT_S))
    if code is None:  # it closed its output and stayed
        return _cut("timeout", kept, clock)
    code = code if code >= 0 else 128 - code
    texts = {name: bytes(text) for name, text in kept.items()}
    return ScriptRun(ended="exit", exit_code=code, used_s=clock.used_s(), **texts)


def _cut(why: Literal["timeout", "output"], kept: dict[str, bytearray], clock: Clock) -> ScriptRun:
    texts = {name: bytes(text) for name, text in kept.items()}
    return ScriptRun(ended=why, exit_code=None, used_s=clock.used_s(), **texts)


def _read_while(clock: Clock, file: IO[bytes], largest: int) -> bytes | None:
    """What arrives first on a pipe, b"" at its end, None when nothing came in the clock's time."""
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        while (left := clock.left_s()) > 0:
            if selector.select(max(left, SHORTEST_WAIT_S)):
                return os.read(file.fileno(), largest)
    return None
