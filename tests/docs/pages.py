"""The code of the documentation: the fenced blocks of its pages, and the commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "launch/README.md")]
    + [*(ROOT / "docs").rglob("*.md")]
)
FENCED = re.compile(r'(?ms)^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$')
LOOKS_LIKE_A_COMMAND = re.compile(r"(?m)^ *(?:\$ )?(?:alignkit|make|python -m|accelerate|docker) [\w./-]+.*")
INDENTED = re.compile(r"(?m)^ {4}.*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title (a file name, where the reader is to write it) and its text."""

    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[str]:
        """What a reader would type: the lines of bash, of a console those behind `$ `; without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        elif self.language != "bash":
            return []
        kept = [re.split(r"(?:^|\s)# ", line)[0].strip() for line in lines]
        return [line for line in kept if line]


def blocks(page: Path) -> list[Block]:
    return [Block(*found.groups(default="")) for found in FENCED.finditer(page.read_text(encoding="utf-8"))]


def commands(page: Path) -> list[str]:
    return [command for block in blocks(page) for command in block.commands]


def unmarked(page: Path) -> list[str]:
    """Lines that look like a command in code whose fence does not say bash or console, or in code without a fence."""
    text = page.read_text(encoding="utf-8")
    code = [block.text for block in blocks(page) if block.language not in ("bash", "console")]
    code += INDENTED.findall(FENCED.sub("", text))
    return [found[0].strip() for part in code for found in LOOKS_LIKE_A_COMMAND.finditer(part)]
