"""`alignkit init` writes a recipe that reads as the method's own with one's model and data in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.recipe.lookup.methods import methods
from alignkit.recipe.read import read_recipe
from tests.unit.test_cli_verbs import alignkit, folder  # noqa: F401  fixtures


@pytest.fixture
def rows(folder: Path) -> Path:  # noqa: F811
    (folder / "r.yaml").unlink()
    (folder / "rows.jsonl").write_text("{}\n")
    return folder


def arguments(method: str, *more: str) -> list[str]:
    data = [] if method == "archer" else ["--data", "./rows.jsonl"]
    return ["init", "mine.yaml", "--method", method, "--model", "smollm2-135m-instruct", *data, *more]


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("rank", [0, 8])
def test_each_method_is_written_as_its_own_recipe_with_model_data_and_adapter(alignkit, rows, method, rank):  # noqa: F811
    code, out, err = alignkit(*arguments(method, "--lora", str(rank)))
    assert (code, err) == (0, "")
    assert out.startswith("wrote mine.yaml; next: alignkit check mine.yaml")
    written = read_recipe(rows / "mine.yaml")
    given = ["model.path=smollm2-135m-instruct", *([] if method == "archer" else ["data.source=./rows.jsonl"])]
    plain = read_recipe(method, given)
    assert written.model.path == plain.model.path
    assert (written.model.lora.rank if written.model.lora else 0) == rank
    [own], [shelf] = written.stages, plain.stages
    assert (own.algorithm, own.train, own.rollouts) == (shelf.algorithm, shelf.train, shelf.rollouts)
    tenfold = 10 if rank and method != "archer" else 1
    assert own.optimizer.lr == pytest.approx(shelf.optimizer.lr * tenfold)


def test_comments_are_kept_and_the_command_is_the_files_own(alignkit, rows):  # noqa: F811
    alignkit(*arguments("dpo", "--lora", "0", "--launch", "zero2"))
    text = (rows / "mine.yaml").read_text()
    assert "#   command    alignkit train mine.yaml\n" in text
    assert "# 2305.18290" in text
    assert text.endswith("launch: zero2\n")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["init", "mine.txt"], "mine.txt: a recipe is a .yaml file; name one"),
        (["init", "mine.yaml", "--method", "sfd"], "no method is called 'sfd'; there are archer, dpo,"),
        (["init", "mine.yaml", "--method", "sft"], "init: no --model and nobody to ask; give it (a folder"),
        (arguments("sft", "--data", "nowhere.jsonl", "--lora", "0"), "data.source: there is no file 'nowhere.jsonl'"),
        (arguments("sft", "--lora", "0", "--launch", "zero9"), "launch: no launch profile is called 'zero9'"),
    ],
)
def test_what_cannot_be_a_recipe_is_refused_and_nothing_is_written(alignkit, rows, given, problem, monkeypatch):  # noqa: F811
    monkeypatch.setattr("os.isatty", lambda descriptor: False)
    code, _, err = alignkit(*given)
    assert code == 2
    assert problem in err
    assert ".mine-" not in err, "the draft's name is nobody's"
    assert [file.name for file in rows.iterdir()] == ["rows.jsonl"]


def test_a_file_that_exists_is_left_alone(alignkit, rows):  # noqa: F811
    (rows / "mine.yaml").write_text("mine")
    code, _, err = alignkit(*arguments("sft"))
    assert (code, (rows / "mine.yaml").read_text()) == (2, "mine")
    assert "exists already" in err
