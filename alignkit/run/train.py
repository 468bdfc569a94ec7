"""`alignkit train`: a whole run, from recipe to final model, over all its stages."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import transformers.utils.logging

from alignkit.errors import AlignkitError, CheckpointError
from alignkit.parallel.group import Group, join_group
from alignkit.recipe.read import difference
from alignkit.recipe.rules import judges_given
from alignkit.recipe.schema import Recipe
from alignkit.report.run_folder import RunFolder
from alignkit.report.terminal import open_display
from alignkit.report.tracker import open_tracker
from alignkit.rollout.canary import probe
from alignkit.run import build
from alignkit.run.journal import Journal
from alignkit.run.memory import keep_freed_memory
from alignkit.run.stages import Run
from alignkit.train import checkpoint
from alignkit.train.checkpoint import State
from alignkit.train.sync import Sync


class Interrupted(AlignkitError):
    """The run was asked to stop (SIGTERM or Ctrl-C) and has written a checkpoint."""

    exit_code = 85


def run(recipe: Recipe, *, resume: bool, as_json: bool = False) -> dict[str, Any] | None:
    """Trains `recipe` on this rank and returns a summary (None on all ranks but the first).

    resume: go on from the newest whole checkpoint of the run's folder; without it a used folder is refused. Raises
    AlignkitErrors: CheckpointError when the recipe differs from the checkpoint's in a way that matters, Interrupted
    (exit code 85) after SIGTERM, HealthError when a rule stops the run.
    """
    keep_freed_memory()
    transformers.utils.logging.disable_progress_bar()  # the run has a progress display of its own
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)  # it writes to stdout
    group = join_group()
    with contextlib.ExitStack() as resources:
        job = _open(recipe, group, resume=resume, as_json=as_json, resources=resources)
        with _interruptible(job), _ended(job):
            if not job.train():
                raise Interrupted(f"stopped after step {job.state.done}; a checkpoint was written: go on with --resume")
            return job.conclude()


def run_folder(recipe: Recipe) -> Path:
    """The recipe's `run`, or runs/<name of the recipe file>."""
    return Path(recipe.run or f"runs/{recipe.file.stem if recipe.file else 'run'}")


def _open(recipe: Recipe, group: Group, *, resume: bool, as_json: bool, resources: contextlib.ExitStack) -> Run:
    path = run_folder(recipe)
    _refuse_used_folder(path, resume)
    folder = RunFolder(path)
    journal = Journal(folder=folder, group=group)
    start = group.from_first(_starting_point(recipe, path, journal) if group.first and resume else None)
    state = checkpoint.read_state(start) if start else State()
    if group.first:
        total = sum(stage.train.steps for stage in recipe.stages)
        journal.display = resources.enter_context(contextlib.closing(open_display(json=as_json)))
        journal.display.start(total, path.name, done=state.done)
        config = recipe.model_dump(mode="json")
        tracker = open_tracker(recipe.tracker, path, config, first_step=state.done)
        journal.tracker = resources.enter_context(contextlib.closing(tracker))
        folder.recipe(config)
        folder.truncate(state.done)
        folder.started(step=state.done)
    policy = build.build_policy(recipe, group)
    engine = None
    if group.first and _samples(recipe):
        scratch = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="alignkit-")))
        engine = build.build_engine(recipe, policy, scratch, log_file=path / "engine.log")
        resources.callback(engine.close)
    sequences = probe(policy.tokenizer, vocab_size=policy.model.config.vocab_size, seed=recipe.seed)
    sync = Sync(
        engine=engine,
        group=group,
        probe=[sequence[: policy.context] for sequence in sequences],
        tolerance=recipe.stages[-1].rollouts.canary_tolerance,
    )
    return Run(
        recipe=recipe,
        group=group,
        policy=policy,
        journal=journal,
        engine=engine,
        sync=sync,
        resources=resources,
        state=state,
        start=start,
    )


def _samples(recipe: Recipe) -> bool:
    algorithms = [build.algorithm_of(recipe, stage)[0] for stage in recipe.stages]
    answers = recipe.evaluation is not None and not judges_given(recipe.stages[-1], algorithms[-1])
    return answers or any(algorithm.samples for algorithm in algorithms)


def _refuse_used_folder(path: Path, resume: bool) -> None:
    if not resume and (path / "metrics.jsonl").exists():
        raise CheckpointError(f"{path} holds a run already: --resume goes on with it, run=OTHER starts beside it")


def _starting_point(recipe: Recipe, path: Path, journal: Journal) -> Path | None:
    """The checkpoint to go on from; None when there is none yet. Refuses one of a recipe that differs."""
    newest = checkpoint.newest(path / "checkpoints", report=journal.report)
    if newest is None:
        return None
    changes = difference(Recipe.model_validate_json((newest / "recipe.json").read_text()), recipe)
    if changes:
        shown = "; ".join(changes)
        raise CheckpointError(f"{newest.name} is of another recipe, it cannot be resumed with this one: {shown}")
    return newest


@contextlib.contextmanager
def _ended(job: Run) -> Generator[None]:
    """Writes the run's last event: how it ended, or what ended it."""
    reason = "killed"
    try:
        yield
        reason = "finished"
    except BaseException as error:
        reason = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else str(error)
        raise
    finally:
        if job.group.first:
            job.journal.folder.event("end", step=job.state.done, reason=reason)


@contextlib.contextmanager
def _interruptible(job: Run) -> Generator[None]:
    """SIGTERM and the first Ctrl-C end the run after the step in progress; a second Ctrl-C ends it at once."""

    def ask(number: int, frame: object) -> None:
        if job.interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        job.interrupted = True
        print(f"{signal.Signals(number).name}: finishing this step, then a checkpoint", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
