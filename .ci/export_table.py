"""Writes the table of families that GGUF files are made of into docs/export.md: python .ci/export_table.py (a minute).

The column of llama.cpp stays as it is: it is no dependency, and was asked by hand.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignkit.errors import ExportError  # noqa: E402
from alignkit.run.export.export import export  # noqa: E402
from alignkit.run.export.ollama import ollama_template  # noqa: E402
from tests.unit.export_models import FAMILIES, tokenizer_of, write  # noqa: E402

DOCS = ROOT / "docs" / "export.md"
START, END = "<!-- families: begin (make export-table) -->", "<!-- families: end -->"
HEADER = "| family | model type | F32 | F16 | BF16 | Q8_0 | Ollama's template | by llama.cpp |\n" + "|---" * 8 + "|"


def row(name: str, by_llama_cpp: str) -> str:
    """One family: what each number format costs, and whether its chat template can be said in Ollama's words."""
    known = FAMILIES[name]
    gaps = []
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "model", name)
        for dtype in ("f32", "f16", "bf16", "q8_0"):
            done = export(str(Path(place) / "model"), to="gguf", dtype=dtype, out=Path(place) / dtype)
            gaps.append(f"{done.gaps['gap']:.0e}")
    try:
        ollama_template(tokenizer_of(known.template, known.pre))
        said = "yes"
    except ExportError as error:
        said = f"no: {str(error).removeprefix('ollama: the chat template ').partition(', which')[0]}"
    return f"| {name} | `{known.kind}` | {' | '.join(gaps)} | {said} | {by_llama_cpp} |"


def main() -> None:
    page = DOCS.read_text(encoding="utf-8")
    before, rest = page.split(START)
    table, after = rest.split(END)
    kept = {cells[1].strip(): cells[-2].strip() for line in table.splitlines() if len(cells := line.split("|")) > 3}
    rows = [row(name, kept.get(name, "not tried")) for name in FAMILIES]
    page = "\n".join([before + START, HEADER, *rows, END + after])
    DOCS.write_text(re.sub(r"\n{3,}", "\n\n", page), encoding="utf-8")


if __name__ == "__main__":
    main()
