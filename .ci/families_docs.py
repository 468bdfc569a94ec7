"""Writes the table of chat templates into docs/templates.md, how each family ends a turn and what it opens, and that of
the recipes for known models into docs/models.md.

python .ci/families_docs.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignkit.data.chat_template import chat_template  # noqa: E402
from alignkit.data.rendering import render_learnt  # noqa: E402
from alignkit.errors import DataError  # noqa: E402
from alignkit.recipe.read import read_recipe  # noqa: E402
from alignkit.recipe.schema import Data  # noqa: E402
from alignkit.types.task import Task  # noqa: E402
from tests.families import FAMILIES, family, tokenizer  # noqa: E402
from tests.family_turns import TEMPLATES  # noqa: E402

DOCS = ROOT / "docs" / "templates.md"
MODELS = ROOT / "docs" / "models.md"
RECIPES = "<!-- recipes: begin (make data-docs) -->"
RECIPES_END = "<!-- recipes: end -->"
START, END = "<!-- families: begin (make data-docs) -->", "<!-- families: end -->"
TALK = Task(
    id="talk",
    messages=(
        {"role": "user", "content": "A colour?"},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "A number?"},
    ),
    columns={"completion": "Seven."},
    conversation=True,
)


def table() -> str:
    rows = ["| template | a turn ends with | opens | earlier turns |", "|---|---|---|---|"]
    for name in FAMILIES:
        words = tokenizer(name)
        found = chat_template(words)
        end = code(found.turn_end) if found.turn_end else f"EOS {code(words.eos_token)}"
        rows.append(f"| {', '.join(family(name).models)} | {end} | {code(found.opened.strip())} | {earlier(words)} |")
    return "\n".join(rows)


def earlier(words: object) -> str:
    try:
        render_learnt(words, TALK, Data(source="talk"))
    except DataError as error:
        return (
            str(error)
            .removeprefix("task talk: the chat template ")
            .partition(";")[0]
            .replace("message 1", "an earlier turn")
        )
    return "learnt"


def code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def recipes() -> str:
    """Every model that the shelf knows, and what its recipes say of it."""
    rows = ["| recipe | model | turns learnt | to the template | template tried |", "|---|---|---|---|---|"]
    for name, template in TEMPLATES.items():
        recipe = read_recipe(f"sft/{name}", ["data.source=hub:any/rows"])
        data = recipe.stages[0].data
        said = ", ".join(f"`{key}: {yaml(value)}`" for key, value in data.chat_template_kwargs.items())
        rows.append(f"| `{name}` | {recipe.model.path} | {data.turns} | {said} | {template} |")
    return "\n".join(rows)


def yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def with_recipes() -> str:
    before, _, rest = MODELS.read_text(encoding="utf-8").partition(RECIPES)
    return f"{before}{RECIPES}\n{recipes()}\n{RECIPES_END}{rest.partition(RECIPES_END)[2]}"


def written() -> str:
    text = DOCS.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCS.write_text(written(), encoding="utf-8")
    MODELS.write_text(with_recipes(), encoding="utf-8")
    print(DOCS.relative_to(ROOT), MODELS.relative_to(ROOT))
