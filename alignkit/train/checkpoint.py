"""Checkpoints: all or nothing, hashed, and complete: one manifest names every stateful thing of the run.

    checkpoints/step-000020/
        manifest.json            sha256 and size of every other file; written last
        state.json               where the run stands (train/state.py): counts, cursor, controls, hooks, health
        recipe.json              the resolved recipe, to refuse a resume that would be another run
        inputs.json              hashes of the rows, files and models it was computed from (train/inputs.py)
        model.safetensors ...    what the policy's Trainer.save wrote (sharded trainers: one file a rank)
        critic/ critic-target/   the same of a critic of its own, and its slow copy, where there are
        replay/                  past turns, for algorithms that learn from them

Random number generators have no entry: every random choice is derived from the seed and a name (types/seeds.py).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from alignkit.errors import CheckpointError
from alignkit.parallel.group import Group
from alignkit.train.inputs import FILE, Input, dump
from alignkit.train.state import State
from alignkit.types.files import fsync, sentence

if TYPE_CHECKING:
    from alignkit.train.loop import StageLoop

UNFINISHED = ".unfinished"
MANIFEST, STATE, RECIPE = "manifest.json", "state.json", "recipe.json"
ALWAYS = (STATE, RECIPE)  # in every manifest, beside the weights


@runtime_checkable
class Kept(Protocol):
    """Something with a state that no cursor can restore: a trainer, a slow critic, a memory of past turns."""

    def save(self, folder: Path) -> None:
        """Writes itself into an existing folder; every rank that has it calls it."""
        ...

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote."""
        ...


def save(
    root: Path,
    state: State,
    *,
    recipe: str,
    parts: Mapping[str, Kept],
    group: Group,
    keep: int,
    inputs: Sequence[Input] = (),
) -> Path:
    """Writes checkpoints/step-<done> and removes the oldest beyond `keep`; every rank must call it.

    parts: what has a state of its own, by folder within the checkpoint ("" is the checkpoint itself). recipe: the
    resolved recipe as JSON. inputs: what else the run computes from. The folder appears under its name only when every
    byte is on the disk. Raises CheckpointError (disk full, no permission) on all ranks and leaves earlier checkpoints
    as they were.
    """
    final = root / f"step-{state.done:06d}"
    temporary = root / (final.name + UNFINISHED)
    problem = group.from_first(_guarded(lambda: _begin(temporary, parts), root) if group.first else None)
    if problem is None:
        problem = next(filter(None, group.gather(_guarded(lambda: _save_parts(temporary, parts), root))), None)
    if problem is None and group.first:
        problem = _guarded(lambda: _finish(temporary, final, state, {RECIPE: recipe, FILE: dump(inputs)}), root)
    problem = group.from_first(problem)
    if problem is not None:
        if group.first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(problem)
    if group.first:
        # newer ones are damaged leftovers that a resume fell back from: they must not push this one out
        for old in [path for path in complete(root) if path.name <= final.name][:-keep]:
            shutil.rmtree(old)
    return final


def _begin(temporary: Path, parts: Mapping[str, Kept]) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    for folder in ("", *parts):
        (temporary / folder).mkdir(parents=True, exist_ok=True)


def _save_parts(temporary: Path, parts: Mapping[str, Kept]) -> None:
    for folder, part in parts.items():
        part.save(temporary / folder)


def _finish(temporary: Path, final: Path, state: State, texts: Mapping[str, str]) -> None:
    (temporary / STATE).write_text(json.dumps(asdict(state), indent=1))
    for name, text in texts.items():
        (temporary / name).write_text(text)
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    table = {str(path.relative_to(temporary)): _digest(path) for path in files}
    (temporary / MANIFEST).write_text(json.dumps(table, indent=1))
    for path in [*files, temporary / MANIFEST, *(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
        fsync(path)
    replaced = final.with_name(final.name + ".replaced")  # counts as complete: at no moment is there none
    if final.exists():  # the same step again, after a resume
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    temporary.rename(final)
    fsync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _guarded(write: Callable[[], object], root: Path) -> str | None:
    """None when `write` succeeded, else one line that says what the disk answered. Only disk errors are caught."""
    try:
        write()
    except OSError as error:
        return sentence(error, root, "the checkpoint", room="free some space or set checkpoints.keep lower")
    return None


def complete(root: Path) -> list[Path]:
    """Finished checkpoints, oldest first; unfinished ones do not count."""
    return sorted(path for path in root.glob("step-*") if path.is_dir() and not path.name.endswith(UNFINISHED))


def newest(root: Path, *, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose every byte matches its manifest; damaged ones are reported and passed over.

    None when there is no checkpoint at all. Raises CheckpointError when there are some and all are damaged: to begin
    anew is for the user to say.
    """
    damaged = []
    for path in reversed(complete(root)):
        damage = verify(path)
        if damage is None:
            return path
        damaged.append(f"{path.name} ({damage})")
        report(f"{path.name} is damaged ({damage}) and is not used; falling back to the one before")
    if damaged:
        raise CheckpointError(
            f"{root}: every checkpoint is damaged: {'; '.join(damaged)}. Nothing was changed; put the files back from "
            "a copy, or begin again beside it with run=OTHER"
        )
    return None


def verify(path: Path) -> str | None:
    """None when the checkpoint is whole, else the first file that is missing, changed or too many, and how."""
    try:
        table = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read: {type(error).__name__}"
    if problem := _incomplete(table):
        return f"{MANIFEST} {problem}"
    for name, digest in table.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _digest(path / name) != digest:
            return f"{name} has changed"
    extra = sorted({str(file.relative_to(path)) for file in path.rglob("*.safetensors")} - table.keys())
    return f"{extra[0]} is not in its {MANIFEST}" if extra else None


def _incomplete(table: Any) -> str | None:
    """What a manifest lacks to be one; None when it names at least what every checkpoint has, each with a hash."""
    if not isinstance(table, dict):
        return f"holds no table of files but {json.dumps(table)[:40]}"
    wanted = [name for name in ALWAYS if name not in table]
    if not any(name.startswith("model") and name.endswith(".safetensors") for name in table):
        wanted.append("model.safetensors")
    if wanted:
        return f"does not name {', '.join(wanted)}"
    odd = [name for name, digest in table.items() if not isinstance(digest, str) or not _is_inside(name)]
    return f"names {odd[0]!r}, which is no file of a checkpoint" if odd else None


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def read_state(path: Path) -> State:
    """The State that `save` wrote; raises CheckpointError when it is another version's."""
    try:
        told = json.loads((path / STATE).read_text(encoding="utf-8"))
        # older checkpoints have the memories of two hooks beside the rest
        older = {name: told.pop(name) for name in ("constraints", "noise") if name in told}
        return State(**{"hooks": older} | told)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path / STATE}: cannot be read ({type(error).__name__}: {error}); it was written by another version of "
            "alignkit: resume with that one"
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kept_parts(loop: StageLoop) -> dict[str, Kept]:
    """What of a stage has a state of its own, by its folder within a checkpoint."""
    parts: dict[str, Kept] = {"": loop.step.trainer}
    if loop.critic:
        parts["critic"] = loop.critic.trainer
    if loop.target:
        parts["critic-target"] = loop.target
    if isinstance(loop.source, Kept):
        parts["replay"] = loop.source
    return parts
