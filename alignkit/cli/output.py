"""What all verbs share: their common arguments, JSON output and tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from alignkit.errors import AlignkitError
from alignkit.recipe.document import parse_value

RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or a name from `alignkit ls recipes`.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the recipe's.")
]
OptionsOption = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option of the reward; may be given again."),
]
EngineOption = Annotated[str, typer.Option(help="vllm, hf (exact, slow), or the URL of a vLLM server.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def parse_options(given: list[str] | None) -> dict[str, Any]:
    """`["max_tokens=512"]` as {"max_tokens": 512}; values are YAML, as in recipes. Raises AlignkitError."""
    options: dict[str, Any] = {}
    for number, text in enumerate(given or [], start=1):
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise AlignkitError(f"--option {text!r}: wanted KEY=VALUE")
        options[key], _ = parse_value(value, "--option", number, key)
    return options


def check_engine(engine: str) -> None:
    """Raises AlignkitError for an --engine that there is not."""
    if engine not in ("vllm", "hf") and not engine.startswith(("http://", "https://")):
        raise AlignkitError(f"--engine is {engine}; wanted vllm, hf, or http://HOST:PORT of a vLLM server")


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table as wide as the terminal; columns but the last are never cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=200)
    console.print(table)
