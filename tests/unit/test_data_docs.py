"""docs/data.md shows the layouts that the tests prove."""

import runpy
from pathlib import Path

from tests.layouts import LAYOUTS

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_on_data_shows_the_layouts_as_they_are():
    script = runpy.run_path(str(ROOT / ".ci" / "data_docs.py"))
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    shown = page.partition(script["BEGIN"])[2].partition(script["END"])[0]
    assert shown == script["layouts_markdown"](), "run: make data-docs"
    assert shown.count("\n-> ") == sum(map(len, LAYOUTS.values()))


def test_the_page_on_templates_shows_the_families_as_they_are():
    script = runpy.run_path(str(ROOT / ".ci" / "families_docs.py"))
    assert script["DOCS"].read_text(encoding="utf-8") == script["written"](), "run: make data-docs"
