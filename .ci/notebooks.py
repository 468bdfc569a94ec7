"""Writes docs/notebooks: each page on a job as a notebook whose cells are the page's prose, files and commands.

python .ci/notebooks.py    (make notebooks)
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.docs.pages import FENCED, Block  # noqa: E402

JOBS = ROOT / "docs" / "jobs"
FOLDER = ROOT / "docs" / "notebooks"
PAGES = sorted(page for page in JOBS.glob("*.md") if page.name not in ("index.md", "cluster.md"))
LINK = re.compile(r"\]\(([^()\s:#]+)(#[^()\s]*)?\)")
STAY = ("alignkit serve ", "alignkit watch ")
"""Commands that last until Ctrl-C, for a terminal of their own."""


def notebook(page: Path) -> str:
    """The text of a page's notebook. Links hold from docs/notebooks."""
    cells, end = [], 0
    text = page.read_text(encoding="utf-8")
    for found in FENCED.finditer(text):
        cells += _prose(text[end : found.start()])
        cells += _code(Block(*found.groups(default="")))
        end = found.end()
    cells += _prose(text[end:])
    for number, cell in enumerate(cells):
        cell["id"] = f"{page.stem}-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def _prose(text: str) -> list[nbformat.NotebookNode]:
    text = LINK.sub(lambda found: f"]({posixpath.normpath('../jobs/' + found[1])}{found[2] or ''})", text.strip())
    return [nbformat.v4.new_markdown_cell(text)] if text else []


def _code(block: Block) -> list[nbformat.NotebookNode]:
    if block.title:
        return [nbformat.v4.new_code_cell(f"%%writefile {block.title}\n{block.text.rstrip()}")]
    if block.language != "bash":
        return [nbformat.v4.new_markdown_cell(f"```{block.language}\n{block.text}```")]
    here = [command for command in block.commands if not command.startswith(STAY)]
    there = [command for command in block.commands if command.startswith(STAY)]
    cells = [nbformat.v4.new_code_cell("%%bash\n" + "\n".join(here))] if here else []
    note = "In a terminal of its own, until Ctrl-C:\n\n```bash\n" + "\n".join(there) + "\n```"
    return [*cells, nbformat.v4.new_markdown_cell(note)] if there else cells


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for page in PAGES:
        (FOLDER / f"{page.stem}.ipynb").write_text(notebook(page), encoding="utf-8")


if __name__ == "__main__":
    main()
