"""A disk of any size: a run that fills it ends with one sentence, and goes on with the same bits once there is room."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from alignkit.errors import AlignkitError
from alignkit.run.train.train import run as train
from alignkit.types.files import disk_error
from tests.resume.runs import fingerprint, read, write_recipe
from tests.unit.test_files import mount


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = write_recipe(folder, steps=6, every=2)
    train(read(recipe, folder / "run"), resume=False)
    return recipe, fingerprint(folder / "run")


def outcome(recipe: Path, run: Path, *, resume: bool) -> str | None:
    """None when the run went through, else what it said of the disk; any other error is raised."""
    try:
        train(read(recipe, run), resume=resume)
    except AlignkitError as error:
        return str(error)
    except Exception as error:
        refused = disk_error(error)
        if refused is None:
            raise
        return f"could not be written ({refused.strerror}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("kib", [60, 200, 400, 800])
def test_a_run_that_fills_its_disk_goes_on_with_the_same_bits_when_there_is_room(undisturbed, tmp_path, kib):
    recipe, wanted = undisturbed
    run = tmp_path / "disk" / "run"
    mount(run.parent, kib)
    try:
        said = outcome(recipe, run, resume=False)
        told = ("could not be written (No space left", "could not be written there: [Errno 28]", "free some space")
        assert said is None or any(words in said for words in told)
        assert not [*run.rglob("*.tmp"), *run.rglob("*.unfinished"), *run.glob("lock.json")]
        mount(run.parent, 20_000, again=True)
        assert outcome(recipe, run, resume=True) is None
        assert fingerprint(run) == wanted
    finally:
        subprocess.run(["umount", run.parent], check=False)
