"""The wheel from an empty folder, with nothing of the repository on the path: to a trained and exported model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.wheel import Installed, build, install
from tests.docs.pages import ROOT, blocks
from tests.docs.test_containers import COPIED

SHELF = ("recipes", "reward_models", "evals", "launch")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from what the Dockerfile copies and nothing else."""
    source = tmp_path_factory.mktemp("source")
    for name in COPIED[1:]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, source / name)
    return build(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    return install(wheel, tmp_path_factory.mktemp("installed") / "site")


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_whole_shelf_and_nothing_of_tests_and_tools(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "alignkit", *SHELF], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    wanted = {name if name.startswith("alignkit/") else f"alignkit/content/{name}" for name in tracked}
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert {name.split("/")[0] for name in names} == {"alignkit", "alignkit-0.1.0.dist-info"}


@pytest.mark.slow
def test_what_is_listed_lies_in_the_installation_and_no_module_comes_from_the_repository(installed, tmp_path):
    done = installed.run(["ls", "--json"], at=tmp_path)
    listed = json.loads(done.out)
    assert {entry["kind"] for entry in listed} >= {
        "recipes",
        "rewards",
        "algorithms",
        "environments",
        "evals",
        "launch",
    }
    assert [entry for entry in listed if not Path(entry["path"]).is_relative_to(installed.folder)] == []
    # the packages that both share may lie in the repository, too: in its .venv
    code = (
        "import sys; from alignkit.cli.main import run; code = run(['check', 'smoke/start', '--quick']);"
        "files = {name: str(getattr(module, '__file__', '')) for name, module in sys.modules.items()};"
        f"own = [name for name, file in files.items() if file.startswith({str(ROOT)!r})];"
        "print(code, [name for name in own if not files[name].startswith(sys.prefix)])"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=tmp_path, env=installed.environment, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "0 []"


@pytest.mark.slow
def test_a_new_user_writes_a_recipe_trains_exports_with_proof_and_talks_to_it(installed, tmp_path):
    from tests.unit.export_models import write

    write(tmp_path / "model", "SmolLM2")
    [rows] = [block.text for block in blocks(ROOT / "docs/jobs/chat-model.md") if block.title == "chats.jsonl"]
    (tmp_path / "chats.jsonl").write_text(rows)
    given = ["--method", "sft", "--model", "./model", "--data", "chats.jsonl", "--lora", "2"]
    for arguments in (
        ["init", "mine.yaml", *given],
        ["train", "mine.yaml", "--run", "run"],
        ["export", "run", "--to", "gguf", "--type", "q8_0", "--json"],
        ["chat", "run", "--max-tokens", "4"],
    ):
        done = installed.run(arguments, at=tmp_path, said="Hello?\n" if arguments[0] == "chat" else "")
        assert done.code == 0, f"{arguments}: {done.out[-2000:]}{done.err[-2000:]}"
        if arguments[0] == "export":
            assert json.loads(done.out)["gaps"]["gap"] < 0.2
    first = (tmp_path / "mine.yaml").read_text().partition("\n")[0]
    assert first.endswith((installed.folder / "alignkit/content/recipes/recipe.schema.json").as_uri())
    assert list((tmp_path / "run" / "export" / "gguf").glob("*.gguf"))
