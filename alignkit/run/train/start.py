"""Where a run begins: its folder is taken, its checkpoint found and compared, before a byte of the run is written."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from alignkit.errors import AlignkitError, CheckpointError, first_line
from alignkit.models.arithmetic import settled
from alignkit.parallel.group import Group
from alignkit.recipe.identity import difference
from alignkit.recipe.schema import Recipe
from alignkit.run.train.journal import Journal
from alignkit.run_folder.kept_recipe import kept_recipe
from alignkit.train import checkpoint, inputs
from alignkit.train.inputs import Change, Input
from alignkit.train.state import State
from alignkit.types.files import guarded, make_folder
from alignkit.types.owner import Owner

LOCK = "lock.json"
USED = ("metrics.jsonl", "checkpoints/step-*", "final")  # what only a run leaves behind

Value = TypeVar("Value")


@dataclass(kw_only=True)
class Start:
    """recipe: with its arithmetic settled. checkpoint: to go on from, None at the beginning. notes: sentences for the
    journal, once it may be written.

    changes: of inputs since the checkpoint, accepted; None when the checkpoint says nothing of its inputs.
    """

    recipe: Recipe
    checkpoint: Path | None = None
    state: State = field(default_factory=State)
    notes: list[str] = field(default_factory=list)
    changes: list[Change] | None = field(default_factory=list)

    def compare(self, now: Sequence[Input], accept: Sequence[str]) -> None:
        """Raises CheckpointError when an input has changed whose kind is not accepted."""
        known = inputs.read(self.checkpoint) if self.checkpoint else now
        self.changes = None if known is None else inputs.changes(known, now)
        inputs.refuse(self.changes or [], accept, checkpoint=self.checkpoint.name if self.checkpoint else "")

    def tell(self, journal: Journal) -> None:
        """Everything that was noted, for good: damage, owners that were killed, changes that were accepted."""
        for note in self.notes:
            journal.report(note)
        if self.checkpoint is None or self.changes == []:
            return
        name = self.checkpoint.name
        if self.changes is None:
            journal.report(
                f"{name} was written without a record of its data, rewards, tokenizer and models: whether these have "
                "changed since cannot be seen"
            )
            return
        told = [change.sentence for change in self.changes]
        kinds = list(dict.fromkeys(change.kind for change in self.changes))
        journal.folder.event("changes_accepted", step=self.state.done, checkpoint=name, kinds=kinds, changes=told)
        journal.report(f"going on from {name} with what has changed, as --accept-changes says: {'; '.join(told)}")


def begin(recipe: Recipe, path: Path, *, resume: bool, resources: contextlib.ExitStack) -> Start:
    """Takes the folder for this process until `resources` close, and finds the place to begin. First rank only.

    Raises StorageError when another process has the folder or it cannot be written, CheckpointError when it is used
    and not to be resumed, all its checkpoints are damaged, or they are of another recipe. Nothing is changed then.
    """
    start = Start(recipe=recipe)
    with guarded(path):
        new = not path.exists()
    make_folder(path)
    if new:
        resources.callback(_remove_empty, path)
    owner = Owner(path / LOCK)
    resources.callback(owner.release)
    if owner.left:
        start.notes.append(f"{path} was left without an end by {owner.left}")
    if not resume:
        if any(next(path.glob(pattern), None) for pattern in USED):
            raise CheckpointError(f"{path} holds a run already: --resume goes on with it, run=OTHER starts beside it")
    else:
        start.checkpoint = checkpoint.newest(path / "checkpoints", report=start.notes.append)
    kept = None
    if start.checkpoint is not None:
        kept = _recipe_of(start.checkpoint, beside=recipe.file.parent if recipe.file else None)
    start.recipe, sentence = settled(recipe, begun=kept.model.dtype if kept else None)
    start.notes += [sentence] if sentence else []
    if start.checkpoint is not None and kept is not None:
        changes = difference(kept, start.recipe)
        if changes:
            name, shown = start.checkpoint.name, "; ".join(changes)
            raise CheckpointError(f"{name} is of another recipe, it cannot be resumed with this one: {shown}")
        start.state = checkpoint.read_state(start.checkpoint)
    return start


def on_first(group: Group, work: Callable[[], Value]) -> Value:
    """What `work` returns on the first rank, on every rank. When it fails there, all ranks end with its exit code."""
    value, problem = None, None
    if group.first:
        try:
            value = work()
        except AlignkitError as error:
            problem = error
    value, code = group.from_first((value, problem.exit_code if problem else 0))
    if problem is not None:
        raise problem
    if code:
        sys.exit(code)  # the first rank says why
    return value


def _recipe_of(path: Path, *, beside: Path | None) -> Recipe:
    """The recipe that a checkpoint was made by, in the words of today."""
    try:
        return kept_recipe(path / checkpoint.RECIPE, beside=beside)
    except (OSError, ValueError) as error:
        line = first_line(error)
        raise CheckpointError(
            f"{path / checkpoint.RECIPE}: cannot be read ({line}); it was written by another version of alignkit: "
            "resume with that one"
        ) from error


def _remove_empty(path: Path) -> None:
    """A run that ended before it wrote anything leaves no folder behind."""
    with contextlib.suppress(OSError):
        path.rmdir()
