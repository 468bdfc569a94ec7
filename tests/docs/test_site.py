"""The documentation site builds without a warning, loads nothing from elsewhere, and says the same to programs."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

NOTEBOOKS = runpy.run_path(str(ROOT / ".ci" / "notebooks.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b[^>]*href=\"?(?:https?:)?//"
    )
    assert len(pages) > 40
    assert [page.name for page in pages if loads.search(page.read_text())] == []
    assert [sheet.name for sheet in site.rglob("*.css") if re.search(r"url\(\"?https?:", sheet.read_text())] == []


def test_every_page_can_be_searched_and_stands_in_what_programs_read(site):
    found = {entry["location"].partition("#")[0] for entry in _index(site)}
    short, whole = (site / "llms.txt").read_text(), (site / "llms-full.txt").read_text()
    listed = set(re.findall(r"\]\(([\w/-]+\.md)\):? ", short))
    assert listed == {str(Path(name).with_suffix(".md")) for name in found}
    for name in listed:
        assert (site / name).read_text().strip() in whole
    assert short.splitlines()[2].startswith("> ")
    assert "alignkit train dpo model.path=" in whole


def _index(site: Path) -> list[dict[str, str]]:
    return json.loads((site / "search" / "search_index.json").read_text())["docs"]


@pytest.mark.parametrize("page", NOTEBOOKS["PAGES"], ids=lambda page: page.stem)
def test_a_notebook_is_what_its_page_says(page):
    kept = (NOTEBOOKS["FOLDER"] / f"{page.stem}.ipynb").read_text()
    assert kept == NOTEBOOKS["notebook"](page), "run: make notebooks"
    code = "\n".join("".join(cell["source"]) for cell in json.loads(kept)["cells"])
    for block in blocks(page):
        assert all(command in code for command in block.commands)
        assert not block.title or f"%%writefile {block.title}\n{block.text.rstrip()}" in code


def test_no_notebook_is_left_of_a_page_that_is_not_there():
    kept = {file.stem for file in NOTEBOOKS["FOLDER"].iterdir()}
    assert kept == {page.stem for page in NOTEBOOKS["PAGES"]}
