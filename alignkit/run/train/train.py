"""`alignkit train`: a whole run, from recipe to final model, over all its stages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import transformers.utils.logging

from alignkit.engines.canary import probe
from alignkit.errors import AlignkitError
from alignkit.models.mismatch import mismatches
from alignkit.models.tokenizer import stop_tokens
from alignkit.parallel.group import Group, join_group
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.rules import evaluates_offline
from alignkit.recipe.schema import Recipe
from alignkit.report.terminal import open_display
from alignkit.report.tracker import open_tracker
from alignkit.run.check.named_models import check_models
from alignkit.run.train import build
from alignkit.run.train.deterministic import deterministic
from alignkit.run.train.epochs import GivenData, with_steps
from alignkit.run.train.inputs import inputs_of
from alignkit.run.train.journal import Journal
from alignkit.run.train.memory import keep_freed_memory
from alignkit.run.train.rehearse import rehearse_save
from alignkit.run.train.stages import Run
from alignkit.run.train.start import Start, begin, on_first
from alignkit.run.train.stop import EXIT_STOPPED, Stop
from alignkit.run_folder.run_folder import RunFolder
from alignkit.train.sync import Sync
from alignkit.train.window_index import WINDOWS
from alignkit.types.scratch import scratch


class Interrupted(AlignkitError):
    """The run was asked to stop (SIGTERM or Ctrl-C) and has written a checkpoint."""

    exit_code = EXIT_STOPPED


def run(
    recipe: Recipe, *, resume: bool, as_json: bool = False, accept: Sequence[str] = (), stop: Stop | None = None
) -> dict[str, Any] | None:
    """Trains `recipe` on this rank and returns a summary (None on all ranks but the first).

    resume: go on from the newest whole checkpoint of the run's folder; without it a used folder is refused. accept:
    kinds of inputs (train/inputs.py) that may have changed since that checkpoint. stop: the handler of signals, when
    the caller has entered one. Raises AlignkitErrors: StorageError when the folder cannot be used, CheckpointError when
    the checkpoints are damaged, of another recipe, or of other inputs, Interrupted (exit code 85) after SIGTERM,
    HealthError when a rule stops the run.
    """
    with contextlib.ExitStack() as resources:
        stop = stop or resources.enter_context(Stop())
        keep_freed_memory()
        resources.enter_context(deterministic(recipe.deterministic))
        transformers.utils.logging.disable_progress_bar()  # the run has a progress display of its own
        logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)  # it writes to stdout
        job = _open(recipe, join_group(), resume=resume, as_json=as_json, accept=accept, stop=stop, resources=resources)
        with _ended(job):
            if not job.train():
                raise Interrupted(f"stopped after step {job.state.done}; a checkpoint was written: go on with --resume")
            return job.conclude()


def run_folder(recipe: Recipe) -> Path:
    """The recipe's `run`, or runs/<name of the recipe file>."""
    return Path(recipe.run or f"runs/{recipe.file.stem if recipe.file else 'run'}")


def _open(
    recipe: Recipe,
    group: Group,
    *,
    resume: bool,
    as_json: bool,
    accept: Sequence[str],
    stop: Stop,
    resources: contextlib.ExitStack,
) -> Run:
    """Checks all that a start can be refused for, then writes, then starts the engine."""
    path = run_folder(recipe)
    start = on_first(group, lambda: begin(recipe, path, resume=resume, resources=resources))
    recipe = start.recipe
    on_first(group, lambda: check_models(recipe))
    policy = build.build_policy(recipe, group)
    inputs = on_first(group, lambda: inputs_of(recipe, policy))
    on_first(group, lambda: start.compare(inputs, accept))
    journal = Journal(folder=RunFolder(path), group=group)
    given = GivenData(recipe=recipe, policy=policy)
    written, recipe = recipe, with_steps(recipe, on_first(group, given.steps))
    if group.first:
        total = sum(stage.train.steps or 0 for stage in recipe.stages)
        _write_start(written, start, journal, total=total, as_json=as_json, resources=resources)
        stops = stop_tokens(policy.tokenizer, getattr(policy.model, "generation_config", None))
        for sentence in mismatches(policy.tokenizer, stops):
            journal.report(sentence)
        rehearse_save(recipe, policy, path, journal.report)
    engine = None
    if _samples(recipe):
        folder = resources.enter_context(scratch())
        engine = build.build_engine(recipe, policy, folder, group, log_file=path / "engine.log")
    if engine is not None:
        resources.callback(engine.close)
    sequences = probe(policy.tokenizer, vocab_size=policy.model.config.vocab_size, seed=recipe.seed)
    sync = Sync(
        engine=engine,
        group=group,
        probe=[sequence[: policy.context - 1] for sequence in sequences],  # vLLM wants room for a token behind it
        tolerance=recipe.stages[-1].rollouts.canary_tolerance,
        sleeps=build.engine_sleeps(recipe) and _samples(recipe),
        apart=build.sends_adapter(recipe) and _samples(recipe),
    )
    sync.rest()  # before the trainer fills the card
    build.place(policy, group)
    if group.world > 1:  # from here on ranks wait for one another: none may leave alone
        group.barrier()
        stop.stepping = True
    return Run(
        recipe=recipe,
        written=written,
        group=group,
        policy=policy,
        journal=journal,
        engine=engine,
        sync=sync,
        resources=resources,
        state=start.state,
        start=start.checkpoint,
        given=given,
        inputs=inputs,
        stop=stop,
    )


def _write_start(
    recipe: Recipe, start: Start, journal: Journal, *, total: int, as_json: bool, resources: contextlib.ExitStack
) -> None:
    """The first that a run writes: its recipe, its start, and what it goes back behind. total: steps of the run."""
    folder, done = journal.folder, start.state.done
    journal.display = resources.enter_context(contextlib.closing(open_display(json=as_json)))
    journal.display.start(total, folder.path.name, done=done)
    config = recipe.model_dump(mode="json")
    tracker = open_tracker(recipe.tracker, folder.path, config, first_step=done)
    journal.tracker = resources.enter_context(contextlib.closing(tracker))
    journal.table_every = recipe.tracker_table_every
    folder.recipe(config)
    if start.checkpoint is None or start.changes != []:  # of other data, perhaps
        (folder.path / WINDOWS).unlink(missing_ok=True)
    cut = folder.truncate(done)
    folder.started(step=done)
    if cut:
        start.notes.append(f"{cut} steps after step {done} are done again; what they left is kept as *.cut-at-{done}")
    start.tell(journal)


def _samples(recipe: Recipe) -> bool:
    algorithms = [build.algorithm_of(recipe, stage)[0] for stage in recipe.stages]
    answers = recipe.evaluation is not None and not evaluates_offline(recipe.stages[-1], algorithms[-1])
    return answers or any(kind_of(algorithm.source).samples for algorithm in algorithms)


@contextlib.contextmanager
def _ended(job: Run) -> Generator[None]:
    """Writes the run's last event: how it ended, or what ended it."""
    reason = "killed"
    try:
        yield
        reason = "finished"
    except BaseException as error:
        interrupted = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
        reason = "interrupted" if interrupted else str(error)
        raise
    finally:
        if job.group.first:
            job.journal.note("end", step=job.state.done, reason=reason)
