"""The finder: its order of places, what it loads, and its errors."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from alignkit.errors import ContentError
from alignkit.recipe.lookup import find as finder
from alignkit.recipe.lookup.find import KINDS, find, list_content, load

ROOT = Path(__file__).parents[2]


def reward_file(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.py"
    file.write_text(f'"""{says}."""\n\n\ndef {name}(completion, task):\n    return "{says}"\n')
    return file


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A reward called `judge` in every place, and the order in which they win."""
    monkeypatch.chdir(tmp_path)
    beside, listed, package = tmp_path / "mine", tmp_path / "listed", tmp_path / "site"
    reward_file(beside / "reward_models" / "deep", "judge", "beside")
    reward_file(listed / "reward_models", "judge", "listed")
    reward_file(package, "judge", "packaged")
    monkeypatch.setenv("ALIGNKIT_PATH", f"{tmp_path / 'absent'}{os.pathsep}{listed}")
    monkeypatch.syspath_prepend(package)
    point = EntryPoint(name="judge", value="judge:judge", group="alignkit.rewards")
    monkeypatch.setattr(
        finder, "entry_points", lambda group: EntryPoints([point] if group == "alignkit.rewards" else [])
    )
    shelf = reward_file(tmp_path / "shelf", "judge", "shelved").parent
    monkeypatch.setitem(
        KINDS,
        "rewards",
        finder.Kind(name="rewards", one="reward", folder="reward_models", suffixes=(".py",), shelf=shelf),
    )
    return beside


def test_a_name_is_taken_from_the_first_place_that_has_it(places, tmp_path, monkeypatch):
    def answer() -> tuple[str, str]:
        found = find("rewards", "judge", beside=places)
        return found.summary, load(found)("", None)  # ty: ignore[not-callable]

    assert answer() == ("beside.", "beside")
    shutil.rmtree(places / "reward_models")
    assert answer() == ("listed.", "listed")
    monkeypatch.delenv("ALIGNKIT_PATH")
    assert answer() == ("packaged.", "packaged")
    monkeypatch.setattr(finder, "entry_points", lambda group: EntryPoints([]))
    assert answer() == ("shelved.", "shelved")


def test_listing_shows_each_name_once_with_the_place_that_wins(places):
    reward_file(places / "reward_models", "another", "another")
    (places / "reward_models" / "helpers.py").write_text("def something_else(): ...\n")
    (places / "reward_models" / "_private.py").write_text("def _private(): ...\n")
    listed = [(found.name, found.origin) for found in list_content("rewards", beside=places)]
    assert listed == [("another", "beside the recipe"), ("judge", "beside the recipe")]


def test_an_explicit_file_or_module_is_taken_from_where_it_says(places, tmp_path):
    reward_file(tmp_path / "elsewhere", "other", "elsewhere")
    found = find("rewards", "../elsewhere/other.py:other", beside=places)
    assert (found.name, found.origin, found.path) == ("other", "file", tmp_path / "elsewhere" / "other.py")
    assert find("rewards", "../elsewhere/other.py", beside=places).attribute == "other"
    assert load(find("rewards", "judge:judge", beside=places))("", None) == "packaged"  # ty: ignore[not-callable]


def test_what_was_found_pickles_and_loads_to_the_same_object(places):
    found = find("rewards", "judge", beside=places)
    assert load(pickle.loads(pickle.dumps(found))) is load(found)


def test_loading_a_file_leaves_sys_path_alone_and_sees_a_change_of_the_file(places):
    found = find("rewards", "judge", beside=places)
    before = list(sys.path)
    assert load(found)("", None) == "beside"  # ty: ignore[not-callable]
    found.path.write_text("def judge(completion, task):\n    return 'changed'\n")
    assert load(found)("", None) == "changed"  # ty: ignore[not-callable]
    assert sys.path == before


def test_a_dataclass_in_a_user_file_can_be_pickled(tmp_path):
    file = tmp_path / "shapes.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
        "@dataclass\nclass Judge:\n    limit: int = 3\n\n\nshapes = Judge(5)\n"
    )
    loaded = load(find("rewards", str(file)))
    assert pickle.loads(pickle.dumps(loaded)) == loaded


@pytest.mark.parametrize(
    ("kind", "name", "problem"),
    [
        ("rewards", "juge", r"no reward is called 'juge' \(did you mean 'judge'\?\); see `alignkit ls rewards`"),
        ("rewards", "./nope.py:f", "there is no file"),
        ("rewards", "no_such_module_at_all:f", "there is no module 'no_such_module_at_all'"),
        ("rewards", "judge:jugde", r"does not define 'jugde' \(did you mean 'judge'\?\)"),
        ("algorithms", "gpro", r"did you mean 'grpo' or 'gigpo'\?"),
        ("algorithms", "base", "no algorithm is called 'base'"),
        ("launch", "zero", "no launch profile is called 'zero'"),
        ("reward", "x", r"no kind of content is called 'reward' \(did you mean 'rewards'\?\)"),
        ("rewards", "trl:acuracy_reward", "did you mean 'accuracy_reward'"),
    ],
)
def test_a_name_that_leads_nowhere_is_an_error_with_a_guess(places, kind, name, problem):
    with pytest.raises(ContentError, match=problem):
        find(kind, name, beside=places)


def test_two_files_of_one_name_in_one_place_must_be_told_apart(places):
    reward_file(places / "reward_models" / "second", "judge", "second")
    with pytest.raises(ContentError, match="deep/judge, second/judge"):
        find("rewards", "judge", beside=places)
    assert find("rewards", "second/judge", beside=places).summary == "second."


@pytest.mark.parametrize("content", ["def judge(:\n", "x = 1\n", "def judge(): ...\nraise RuntimeError('boom')\n"])
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "judge.py").write_text(content)
    with pytest.raises(ContentError, match=r"judge\.py"):
        load(find("rewards", "./judge.py", beside=tmp_path))


def test_a_trl_reward_is_found_without_importing_trl():
    code = (
        "import sys; from alignkit.recipe.lookup.find import find; f = find('rewards', 'trl:accuracy_reward');"
        "print(f.attribute, f.origin, 'trl' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.split() == ["accuracy_reward", "trl", "False"]


def test_shipped_algorithms_and_profiles_are_found_and_base_is_not_an_algorithm(tmp_path):
    names = {found.name for found in list_content("algorithms", beside=tmp_path)}
    assert {"grpo", "sft"} <= names
    assert "base" not in names
    profiles = {found.name for found in list_content("launch", beside=tmp_path)}
    assert profiles >= {"cpu", "single-gpu", "zero2", "zero3", "zero3-offload", "zero2-cpu", "zero3-cpu", "slurm"}


def test_every_shipped_file_says_in_one_line_what_it_is(tmp_path):
    for kind in KINDS:
        for found in list_content(kind, beside=tmp_path):
            assert found.summary, found
            assert found.origin == "shelf", found


def test_a_wheel_layout_finds_the_same_shelf_as_a_checkout(tmp_path):
    """In a wheel the content folders lie beside alignkit/content/__init__.py."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "alignkit", site / "alignkit", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("recipes", "reward_models", "launch"):
        shutil.copytree(ROOT / folder, site / "alignkit" / "content" / folder)
    code = (
        "from alignkit.recipe.lookup.find import find, list_content, load\n"
        "print(sorted(f.name for k in ('recipes', 'rewards', 'algorithms', 'launch') for f in list_content(k)))\n"
        "print(find('launch', 'zero2').path)\n"
        "print(load(find('rewards', 'exact_match')).__class__.__module__)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True).stdout
    names, path, _ = output.splitlines()
    here = sorted(
        found.name
        for kind in ("recipes", "rewards", "algorithms", "launch")
        for found in list_content(kind, beside=tmp_path)
    )
    assert names == str(here)
    assert path == str(site / "alignkit" / "content" / "launch" / "accelerate" / "zero2.yaml")
