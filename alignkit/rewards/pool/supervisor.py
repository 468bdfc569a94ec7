"""Keeps the reward workers: hands out jobs, collects scores, kills what hangs, replaces what died."""

from __future__ import annotations

import secrets
import selectors
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit.errors import RewardError
from alignkit.processes.channel import packed
from alignkit.processes.child import Child
from alignkit.processes.clock import Clock
from alignkit.processes.family import held_bytes
from alignkit.processes.keeper import OUT_OF_MEMORY
from alignkit.processes.session import how_it_ended
from alignkit.rewards.base import unscorable
from alignkit.rewards.pool.start_worker import start_worker
from alignkit.rewards.pool.worker import OVER_MEMORY, Wanted, decode
from alignkit.types.rollout import Rollout
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

LOAD_DEADLINE_S = 120.0
SEND_DEADLINE_S = 30.0
LARGEST_CHUNK = 128
SAYS_HOW_WITHIN_S = 2.0  # its keepers end as a dead worker did; one that only closed its socket is killed then
MUCH_OF_ITS_MEMORY = 4  # a quarter
MOST_GRACE = 9  # a starved worker gets at most ten times its deadline


@dataclass(eq=False)
class ScoringJob:
    """One reward on some rollouts of one task; the worker has `deadline_s` seconds for all of them together.

    key: what the worker's answer has to begin with; another for each try. disturbed: it was in progress when a line
    arrived that was no answer, and is given one more try. alone: it was scored together with others, which did not end
    well, and is scored by itself now.
    """

    call: Call
    reward: int
    name: str
    task: Task
    rollouts: Sequence[Rollout]
    deadline_s: float
    state: Mapping[str, Any] | None = None  # what TRL functions hear of the trainer
    scores: list[Score] = field(default_factory=list)
    key: str = ""
    disturbed: bool = False
    alone: bool = False

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
        self.jobs: list[ScoringJob] = []
        self.missing = 0
        self.future: Future[None] = Future()
        self.future.set_running_or_notify_cancel()  # from now on only the supervisor settles it

    def add(self, job: ScoringJob) -> None:
        self.jobs.append(job)
        self.missing += 1


@dataclass(eq=False)
class RewardWorker:
    """One process, its keepers and its jobs.

    chunk: those it has not answered; the first is in progress, or with `together` all are, and `clock` says what is
    left of the time. is_forged: it sent what is no answer. held_at_first: bytes of memory when it had loaded all.
    """

    child: Child
    ready: bool = False
    chunk: deque[ScoringJob] = field(default_factory=deque)
    together: bool = False
    is_forged: bool = False
    held_at_first: int = 0
    clock: Clock | None = None

    def start_clock(self) -> None:
        """What it does from now on may take so long; nothing when it has nothing to do.

        Time in which the machine did not let it run, being busy with others, does not count.
        """
        deadlines = [job.deadline_s for job in self.chunk][: None if self.together else 1]
        limit_s = (sum(deadlines) or None) if self.ready else LOAD_DEADLINE_S
        self.clock = None if limit_s is None else Clock([self.child.process.pid], limit_s, most_grace=MOST_GRACE)

    def is_late(self) -> bool:
        return self.clock is not None and self.clock.left_s() <= 0


class Supervisor:
    """A thread that owns the workers. All public methods may be called from any thread.

    wanted: the rewards. memory_bytes: what one worker may hold. ready: set with what a worker says of each reward
    (`worker._described`), or with RewardError when one cannot be loaded.
    """

    def __init__(self, wanted: Sequence[Wanted], *, workers: int, beside: Path | None, memory_bytes: int):
        self.ready: Future[list[dict[str, Any]]] = Future()
        self._setup = {"setup": packed((wanted, beside))}
        self._wanted = wanted
        self._batched: list[bool] = []
        self._memory_bytes = memory_bytes
        self._count = workers
        self._workers: list[RewardWorker] = []
        self._queue: deque[ScoringJob] = deque()
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
        child = start_worker(self._memory_bytes)
        worker = RewardWorker(child)
        worker.start_clock()
        self._workers.append(worker)
        self._selector.register(child.channel, selectors.EVENT_READ, worker)
        self._send(worker, [self._setup])

    def _send(self, worker: RewardWorker, messages: Sequence[Mapping[str, Any]]) -> None:
        with suppress(OSError):  # a worker that died or does not read is found by its closed socket or its deadline
            worker.child.channel.send(*messages, timeout_s=SEND_DEADLINE_S)

    def _wait(self) -> None:
        """Sleeps until a worker answers, the pool is called, or the next deadline; takes in what arrived."""
        left = [worker.clock.left_s() for worker in self._workers if worker.clock is not None]
        timeout = max(0.0, min(left)) if left else None
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._wake_out.recv(4096)
            else:
                self._receive(key.data)
        while self._inbox:
            self._queue.extend(self._inbox.popleft().jobs)

    def _receive(self, worker: RewardWorker) -> None:
        answered = False
        try:
            for message in worker.child.channel.arrived():
                self._answer(worker, message)
                answered = True
                if worker not in self._workers:  # that was its last
                    return
            if answered:
                worker.start_clock()
        except EOFError:
            self._replace_dead(worker)
        except (ValueError, TypeError, LookupError):  # a reward wrote into the socket: what it says is worth nothing
            worker.is_forged = True
            self._replace_dead(worker)

    def _answer(self, worker: RewardWorker, message: Any) -> None:
        if worker.ready:
            key, said, is_spent = message
            if key != worker.chunk[0].key:
                raise ValueError("an answer to another question")
            worker.chunk[0].done([decode(fields) for fields in said])
            worker.chunk.popleft()
            if is_spent:  # out of memory, or changed by a reward: the others are scored by a fresh one
                self._queue.extendleft(reversed(self._stop(worker)))
            return
        if "error" in message:
            raise RewardError(message["error"])
        worker.ready = True
        pairs = zip(self._wanted, message["rewards"], strict=True)
        self._batched = [one.one_process and not one.apart and said["together"] for one, said in pairs]
        worker.held_at_first = held_bytes(worker.child.process.pid)
        self._failed_loads = 0
        if not self.ready.done():
            self.ready.set_result(message["rewards"])

    def _kill_late(self) -> None:
        for worker in [*self._workers]:
            if not worker.is_late():
                continue
            if not worker.ready:
                raise RewardError(f"a reward worker did not finish loading its rewards in {LOAD_DEADLINE_S:.0f} s")
            grown = held_bytes(worker.child.process.pid) - worker.held_at_first
            jobs = self._stop(worker)
            if self._parted(worker, jobs):
                continue
            message = f"killed after {jobs[0].deadline_s:g} s"
            if grown * MUCH_OF_ITS_MEMORY > self._memory_bytes:  # it was on its way to the limit
                jobs[0].failed(FaultKind.MEMORY, f"{message}, in which it had taken {grown >> 20} MiB")
            else:
                jobs[0].failed(FaultKind.TIMEOUT, message)
            self._queue.extendleft(reversed(jobs[1:]))

    def _replace_dead(self, worker: RewardWorker) -> None:
        """A worker's socket closed: the job in progress crashed it, the others go back to the front of the queue.

        A line that is no answer may be the work of a job that was answered before; the one in progress gets another
        try, and with a second such line it is the one to blame.
        """
        with suppress(subprocess.TimeoutExpired):
            if not worker.is_forged:
                worker.child.process.wait(SAYS_HOW_WITHIN_S)
        jobs = self._stop(worker)
        code = worker.child.process.returncode
        if not worker.ready:
            self._failed_loads += 1
            if self._failed_loads == 3:
                raise RewardError(
                    f"reward workers end with code {code} while they load their rewards, 3 times in a row"
                )
        if self._parted(worker, jobs):
            return
        if jobs and worker.is_forged and not jobs[0].disturbed:
            jobs[0].disturbed = True
        elif jobs:
            self._blame(jobs.pop(0), worker)
        self._queue.extendleft(reversed(jobs))

    def _parted(self, worker: RewardWorker, jobs: Sequence[ScoringJob]) -> bool:
        """Puts back what a worker died over while it scored it together, each job by itself from now on; False when
        there is one to blame."""
        if not worker.together or len(jobs) < 2:
            return False
        for job in jobs:
            job.alone = True
        self._queue.extendleft(reversed(jobs))
        return True

    def _blame(self, job: ScoringJob, worker: RewardWorker) -> None:
        if worker.child.process.returncode == OUT_OF_MEMORY:
            job.failed(FaultKind.MEMORY, OVER_MEMORY)
        elif worker.is_forged:
            job.failed(FaultKind.CRASH, "it wrote into the channel of the worker")
        else:
            job.failed(FaultKind.CRASH, f"the worker {how_it_ended(worker.child.process.returncode)}")

    def _stop(self, worker: RewardWorker) -> list[ScoringJob]:
        """Kills a worker and all that it started; returns the jobs that it had not answered."""
        self._workers.remove(worker)
        self._selector.unregister(worker.child.channel)
        worker.child.kill(family=True)
        return list(worker.chunk)

    def _hand_out(self) -> None:
        """Gives each idle worker a chunk."""
        for worker in self._workers:
            if not worker.ready or worker.chunk or not self._queue:
                continue
            jobs = self._next_chunk()
            worker.chunk.extend(jobs)
            worker.together = len(jobs) > 1 and any(self._batched)
            for job in jobs:
                job.key = secrets.token_hex(8)
            # one by one, so that no two jobs share an object that a reward could change
            asked = [(job.reward, job.task, job.rollouts, job.state) for job in jobs]
            told = [{"key": job.key, "job": packed(one)} for job, one in zip(jobs, asked, strict=True)]
            self._send(worker, [*([{"together": len(jobs)}] if worker.together else []), *told])
            worker.start_clock()

    def _next_chunk(self) -> list[ScoringJob]:
        """Large for few messages, small enough that all workers end together; or all that a model scores for a call at
        once, so that a score's last bit depends on the call alone."""
        first = self._queue[0]
        if not any(self._batched):
            size = max(1, min(LARGEST_CHUNK, len(self._queue) // (4 * self._count)))
            return [self._queue.popleft() for _ in range(size)]
        if first.alone or not self._batched[first.reward]:
            return [self._queue.popleft()]
        chosen = [job for job in self._queue if job.call is first.call and job.reward == first.reward]
        taken = set(chosen)
        self._queue = deque(job for job in self._queue if job not in taken)
        return chosen
