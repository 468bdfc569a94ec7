"""A resumed run writes the checkpoints of the uninterrupted one, byte for byte."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from alignkit.recipe.lookup.find import find, load
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.run.train.train import run as train
from tests.resume.runs import read
from tests.resume.test_every_algorithm import write


def contents(checkpoint: Path) -> dict[str, str]:
    files = [
        path for path in checkpoint.rglob("*") if path.is_file() and path.name not in ("manifest.json", "recipe.json")
    ]
    return {str(path.relative_to(checkpoint)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["archer", "archer_iql", "ppo", "grpo"])
def test_the_last_checkpoint_after_a_resume_has_the_same_bytes(name, tmp_path):
    recipe = write(tmp_path, name, kind_of(load(find("algorithms", name)).source))  # ty: ignore[unresolved-attribute]
    train(read(recipe, tmp_path / "whole"), resume=False)
    whole = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    assert len(whole) >= 2
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / whole[-1].name)
    train(read(recipe, tmp_path / "resumed"), resume=True)
    found = contents(tmp_path / "resumed" / "checkpoints" / whole[-1].name)
    assert found == contents(whole[-1])
    assert any(file.startswith("model") for file in found)
