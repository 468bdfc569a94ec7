"""docs/glossary.md from the code: batch columns out of types/batch.py, metric names out of run_folder/names.py.

Usage: python -m alignkit.report.glossary docs/glossary.md   (a test fails while the file is out of date)
"""

import ast
import sys
from pathlib import Path

from alignkit.run_folder.names import MEANINGS
from alignkit.types.syntax import parsed

BATCH = Path(__file__).resolve().parents[1] / "types" / "batch.py"
HEADER = """# Glossary

Written by `make glossary` from the code; edit the docstrings in `alignkit/types/batch.py` and the table in
`alignkit/run_folder/names.py` instead.
"""


def columns() -> list[tuple[str, str, str]]:
    """(name, type, meaning) of every documented column of Batch, in the order of the file."""
    module = parsed(BATCH.read_text(encoding="utf-8"))
    batch = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "Batch")
    rows = []
    for field, text in zip(batch.body, batch.body[1:], strict=False):
        documented = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and documented:
            rows.append((field.target.id, ast.unparse(field.annotation), " ".join(str(text.value.value).split())))
    return rows


def glossary() -> str:
    """The whole file."""
    batch = [f"| `{name}` | `{kind}` | {text} |".replace(" | None`", "` or None") for name, kind, text in columns()]
    metrics = [f"| `{name}` | {text} |" for name, text in MEANINGS.items()]
    parts = [HEADER, "## Batch columns", "", "| column | type | meaning |", "| --- | --- | --- |", *batch, ""]
    parts += ["## Metric names", "", "| name | meaning |", "| --- | --- |", *metrics, ""]
    return "\n".join(parts)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(glossary(), encoding="utf-8")
