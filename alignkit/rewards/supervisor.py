"""Keeps the reward workers: hands out jobs, collects scores, kills what hangs, replaces what died."""

from __future__ import annotations

import json
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit.errors import RewardError
from alignkit.rewards.base import unscorable
from alignkit.rewards.worker import decode
from alignkit.types.rollout import Rollout
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

LOAD_DEADLINE_S = 120.0
SEND_DEADLINE_S = 30.0
LARGEST_CHUNK = 128
MOST_GRACE = 9  # a starved worker gets at most ten times its deadline


@dataclass(eq=False)
class Job:
    """One reward on some rollouts of one task; the worker has `deadline_s` seconds for all of them together."""

    call: Call
    reward: int
    name: str
    task: Task
    rollouts: Sequence[Rollout]
    deadline_s: float
    scores: list[Score] = field(default_factory=list)

    def done(self, scores: list[Score]) -> None:
        if len(scores) != len(self.rollouts):
            raise ValueError(f"{len(scores)} scores for {len(self.rollouts)} rollouts")
        self.scores = scores
        self.call.missing -= 1
        if not self.call.missing:
            self.call.future.set_result(None)

    def failed(self, kind: FaultKind, message: str) -> None:
        self.done([unscorable(kind, self.name, message) for _ in self.rollouts])


class Call:
    """One call of the pool: `future` is set when none of its jobs misses its scores."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.missing = 0
        self.future: Future[None] = Future()
        self.future.set_running_or_notify_cancel()  # from now on only the supervisor settles it

    def add(self, job: Job) -> None:
        self.jobs.append(job)
        self.missing += 1


@dataclass(eq=False)
class Worker:
    """One process. `chunk` holds the jobs it has not answered; the first is in progress since `since`."""

    process: subprocess.Popen
    channel: socket.socket
    ready: bool = False
    buffer: bytearray = field(default_factory=bytearray)
    chunk: deque[Job] = field(default_factory=deque)
    since: float = 0.0
    starved_before_s: float = 0.0
    grace_s: float = 0.0

    @property
    def limit_s(self) -> float | None:
        """What it is doing may take this long; None when it has nothing to do."""
        if not self.ready:
            return LOAD_DEADLINE_S
        return self.chunk[0].deadline_s if self.chunk else None

    @property
    def late_at(self) -> float | None:
        return None if self.limit_s is None else self.since + self.limit_s + self.grace_s

    def start_clock(self) -> None:
        self.since = time.monotonic()
        self.starved_before_s = starved_s(self.process.pid)
        self.grace_s = 0.0

    def is_late(self) -> bool:
        """Past its deadline. Time in which the machine did not let it run, being busy with others, does not count."""
        if self.late_at is None or time.monotonic() < self.late_at:
            return False
        starved = starved_s(self.process.pid) - self.starved_before_s
        self.grace_s = min(starved, MOST_GRACE * (self.limit_s or 0.0))
        return time.monotonic() >= self.late_at


def starved_s(pid: int) -> float:
    """Seconds that a process has been ready to run without a processor; 0 where the kernel does not say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Supervisor:
    """A thread that owns the workers. All public methods may be called from any thread.

    names: (name, options) of each reward, as `find_reward` takes them. ready: set with one bool per reward, true
    when it scores rollouts one at a time, or with RewardError when a reward cannot be loaded.
    """

    def __init__(self, names: list[tuple[str, dict[str, Any]]], *, workers: int, beside: Path | None):
        self.ready: Future[list[bool]] = Future()
        self._setup = pickle.dumps((names, beside))
        self._count = workers
        self._workers: list[Worker] = []
        self._queue: deque[Job] = deque()
        self._inbox: deque[Call] = deque()
        self._lock = threading.Lock()
        self._closing = False
        self._ended: RewardError | None = None
        self._failed_loads = 0
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="alignkit-rewards", daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        with self._lock:
            if self._ended:
                raise self._ended
            self._inbox.append(call)
        self._wake()

    def close(self) -> None:
        """Kills every worker, fails what was still waiting, and returns when the last process is gone."""
        self._closing = True
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        with suppress(OSError):  # full, so the thread is waking already; or closed, with the thread at its end
            self._wake_in.send(b"x")

    def _run(self) -> None:
        error = RewardError("the reward pool is closed")
        try:
            while not self._closing:
                self._fill()
                self._wait()
                self._kill_late()
                self._hand_out()
        except RewardError as failure:
            error = failure
        except Exception as failure:  # whatever it is, it must reach those who wait for scores
            error = RewardError(f"the reward pool failed: {failure!r}")
        self._end(error)

    def _end(self, error: RewardError) -> None:
        unanswered = [job.call for job in self._queue]
        for worker in [*self._workers]:
            unanswered += [job.call for job in self._stop(worker)]
        with self._lock:
            self._ended = error
            unanswered += self._inbox
        for resource in (self._selector, self._wake_in, self._wake_out):
            resource.close()
        for future in [self.ready, *(call.future for call in unanswered)]:
            if not future.done():
                future.set_exception(error)

    def _fill(self) -> None:
        while len(self._workers) < self._count:
            self._start()

    def _start(self) -> None:
        """Starts one process. The kernel kills it when this thread ends (see worker.py)."""
        ours, theirs = socket.socketpair()
        # A fixed hash seed makes set order, and with it every score, the same in every worker and every run.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "0"}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "alignkit.rewards.worker", str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        worker = Worker(process=process, channel=ours)
        worker.start_clock()
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, worker)
        self._send(worker, self._setup)

    def _send(self, worker: Worker, message: bytes) -> None:
        worker.channel.settimeout(SEND_DEADLINE_S)
        with suppress(OSError):  # a worker that died or does not read is found by its closed socket or its deadline
            worker.channel.sendall(message)
        worker.channel.setblocking(False)

    def _wait(self) -> None:
        """Sleeps until a worker answers, the pool is called, or the next deadline; takes in what arrived."""
        now = time.monotonic()
        deadlines = [worker.late_at for worker in self._workers if worker.late_at is not None]
        timeout = max(0.0, min(deadlines) - now) if deadlines else None
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._wake_out.recv(4096)
            else:
                self._receive(key.data)
        while self._inbox:
            self._queue.extend(self._inbox.popleft().jobs)

    def _receive(self, worker: Worker) -> None:
        try:
            data = worker.channel.recv(1 << 20)
        except OSError:
            data = b""
        worker.buffer += data
        *lines, rest = worker.buffer.split(b"\n")
        worker.buffer = rest
        try:
            for line in lines:
                self._answer(worker, json.loads(line))
        except (ValueError, TypeError, LookupError):  # a reward wrote into the socket: what it says is worth nothing
            data = b""
        if lines:
            worker.start_clock()
        if not data:
            self._replace_dead(worker)

    def _answer(self, worker: Worker, message: Any) -> None:
        if worker.ready:
            worker.chunk[0].done([decode(fields) for fields in message])
            worker.chunk.popleft()
            return
        if "error" in message:
            raise RewardError(message["error"])
        worker.ready = True
        self._failed_loads = 0
        if not self.ready.done():
            self.ready.set_result(message["per_rollout"])

    def _kill_late(self) -> None:
        for worker in [*self._workers]:
            if not worker.is_late():
                continue
            if not worker.ready:
                raise RewardError(f"a reward worker did not finish loading its rewards in {LOAD_DEADLINE_S:.0f} s")
            jobs = self._stop(worker)
            jobs[0].failed(FaultKind.TIMEOUT, f"killed after {jobs[0].deadline_s:g} s")
            self._queue.extendleft(reversed(jobs[1:]))

    def _replace_dead(self, worker: Worker) -> None:
        """A worker's socket closed: the job in progress crashed it, the others go back to the front of the queue."""
        jobs = self._stop(worker)
        code = worker.process.returncode
        if not worker.ready:
            self._failed_loads += 1
            if self._failed_loads == 3:
                raise RewardError(
                    f"reward workers end with code {code} while they load their rewards, 3 times in a row"
                )
        if jobs:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            jobs[0].failed(FaultKind.CRASH, f"the worker ended {how}")
        self._queue.extendleft(reversed(jobs[1:]))

    def _stop(self, worker: Worker) -> list[Job]:
        """Kills a worker and all that it started; returns the jobs that it had not answered."""
        self._workers.remove(worker)
        self._selector.unregister(worker.channel)
        worker.channel.close()
        with suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        return list(worker.chunk)

    def _hand_out(self) -> None:
        """Gives each idle worker a chunk: large for few messages, small enough that all workers end together."""
        for worker in self._workers:
            if not worker.ready or worker.chunk or not self._queue:
                continue
            size = max(1, min(LARGEST_CHUNK, len(self._queue) // (4 * self._count)))
            jobs = [self._queue.popleft() for _ in range(size)]
            worker.chunk.extend(jobs)
            self._send(worker, pickle.dumps([(job.reward, job.task, job.rollouts) for job in jobs]))
            worker.start_clock()
