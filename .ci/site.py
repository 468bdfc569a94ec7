"""Hooks of the documentation site (mkdocs.yml): pages that lie elsewhere in the repository, and llms.txt.

llms.txt lists every page with its first sentence, llms-full.txt holds all pages in the order of the navigation
(llmstxt.org), and each page lies beside its HTML as Markdown: all of the same text as the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "launch/README.md": "launch.md",
}
"""Pages of the site that lie outside of docs/, by their place in the repository."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s#]*)(#[^()\s]*)?\)")
FENCED = re.compile(r"(?ms)^( *)(```|~~~).*?^\1\2[^\n]*$|^<!--.*?-->$")
pages: dict[str, str] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages.clear()
    for place, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / place).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri
    place = next((place for place, name in ELSEWHERE.items() if name == uri), f"docs/{uri}")
    text = "".join(part if is_code else _prose(part, place, uri, files) for is_code, part in _parts(markdown))
    pages[uri] = text
    return text


def on_post_build(config: MkDocsConfig) -> None:
    order = [page.file.src_uri for page in _navigation.pages]
    site = Path(config.site_dir)
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    whole = []
    for section in _navigation.items:
        lines += [f"## {section.title}", ""]
        for page in [page for page in _pages_of(section) if page.file.src_uri in pages]:
            lines.append(f"- [{page.title}]({page.file.src_uri}): {_first_sentence(pages[page.file.src_uri])}")
        lines.append("")
    for uri in order:
        (site / uri).write_text(pages[uri], encoding="utf-8")
        whole.append(f"<!-- {uri} -->\n\n{pages[uri].strip()}\n")
    (site / "llms.txt").write_text("\n".join(lines), encoding="utf-8")
    (site / "llms-full.txt").write_text("\n".join(whole), encoding="utf-8")


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    global _navigation
    _navigation = nav
    return nav


def _pages_of(item: Any) -> list[Page]:
    return [item] if isinstance(item, Page) else [page for child in item.children for page in _pages_of(child)]


def _parts(markdown: str) -> list[tuple[bool, str]]:
    """The text in pieces: (whether it is code or a comment, the piece)."""
    parts, end = [], 0
    for found in FENCED.finditer(markdown):
        parts += [(False, markdown[end : found.start()]), (True, found[0])]
        end = found.end()
    return [*parts, (False, markdown[end:])]


def _prose(text: str, place: str, uri: str, files: Files) -> str:
    """Links as the site has them, and the blank lines that Python-Markdown wants before a list and behind a comment."""
    text = LINK.sub(lambda found: _link(found, place, uri, files), text)
    text = re.sub(r"\A\n(?=\|)", "\n\n", text)
    return re.sub(r"(?m)^((?![-*|] |\d+\. |  |#)\S.*)\n(?=(?:[-*]|\d+\.) )", r"\1\n\n", text)


def _link(found: re.Match[str], place: str, uri: str, files: Files) -> str:
    """A link between files of the repository as one between pages; where it leads to no page, its text."""
    picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
    if not target or "://" in target or target.startswith("mailto:"):
        return found[0]
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
    page = ELSEWHERE.get(wanted, wanted.removeprefix("docs/"))
    if files.get_file_from_path(page) is None:  # where there is no such file either, mkdocs says so
        return f"{text} (`{wanted}`)" if (ROOT / wanted).exists() else found[0]
    return f"{picture}[{text}]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{anchor})"


def _first_sentence(markdown: str) -> str:
    """The first sentence of running text."""
    for _, block in filter(lambda part: not part[0], _parts(markdown)):
        for paragraph in block.split("\n\n"):
            line = " ".join(paragraph.split())
            if line and line[0] not in "#|<!-*>[`":
                return LINK.sub(r"\2", re.split(r"(?<=[.:!?]) (?=[A-Z`])", line)[0])
    return ""
