"""`alignkit eval`: a suite of benchmarks on one model, through a rollout engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import DataError
from alignkit.evaluate.benchmark.protocol import Named, chosen_protocols
from alignkit.evaluate.benchmark.runner import BenchmarkJob, Runner
from alignkit.evaluate.benchmark.tasks import choose, load_benchmark
from alignkit.run.evaluate.evaluated_model import MEMORY_FRACTION, named_reward, open_model, reward_to_measure


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be asked. name: of the suite or protocol, and of the folder of its results."""

    name: str
    jobs: tuple[BenchmarkJob, ...]

    @property
    def answers(self) -> int:
        return sum(len(job.tasks) * _samples(job.named) for job in self.jobs)


def plan(
    suite: str | None,
    tasks: Sequence[str],
    *,
    limit: int | None,
    seed: int,
    data: Path | None,
    beside: Path | None = None,
) -> Plan:
    """Reads every protocol and its data before anything starts. limit: at most this many tasks of each protocol.

    beside: folder for relative names. Raises DataError with one line per protocol whose data are missing or not the
    right ones.
    """
    name, chosen = chosen_protocols(suite, tasks, beside=beside)
    jobs, problems = [], []
    for named, own_limit in chosen:
        wanted = min((one for one in (limit, own_limit) if one is not None), default=None)
        try:
            asked = choose(load_benchmark(named, data=data, seed=seed), wanted, seed)
        except DataError as error:
            problems.append(str(error))
            continue
        jobs.append(BenchmarkJob(named=named, tasks=asked, limit=wanted))
    if problems:
        raise DataError("\n".join(dict.fromkeys(problems)))
    return Plan(name=name.replace("/", "-"), jobs=tuple(jobs))


def evaluate(
    model_name: str,
    wanted: Plan,
    *,
    engine: str,
    seed: int,
    out: Path,
    workers: int = 2,
    memory_fraction: float = MEMORY_FRACTION,
    report: Callable[[str, int], None] = lambda name, done: None,
    finished: Callable[[dict[str, Any]], None] = lambda result: None,
) -> list[dict[str, Any]]:
    """The results of all jobs, as they stand in `out/<plan's name>/<protocol>/result.json`.

    model_name: also the name of a reward, for protocols of pairs. memory_fraction: vLLM's share of a GPU. Controls of
    harm rates run first. Raises ContentError for a model that cannot be loaded or has no chat template where one is
    needed, EngineError when the engine dies: run it again, and it goes on after the last answers.
    """
    with contextlib.ExitStack() as resources:
        reward = reward_to_measure(model_name, wanted.jobs)
        if reward is not None:
            model = named_reward(reward)
        else:
            model = resources.enter_context(
                open_model(model_name, wanted.jobs, engine=engine, seed=seed, memory_fraction=memory_fraction)
            )
        runner = Runner(
            model=model, folder=out / wanted.name, logs=out / "answers", seed=seed, workers=workers, report=report,
            reward=reward,
        )  # fmt: skip
        return runner.run_all(wanted.jobs, finished)


def _samples(named: Named) -> int:
    return named.protocol.sampling.samples if named.protocol.sampling else 1
