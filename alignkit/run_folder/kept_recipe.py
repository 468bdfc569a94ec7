"""A recipe as a run has kept it, in the words of today."""

from __future__ import annotations

import json
from pathlib import Path

from alignkit.recipe.document import Document
from alignkit.recipe.renamed import modernise
from alignkit.recipe.schema import Recipe


def kept_recipe(path: Path, *, beside: Path | None = None) -> Recipe:
    """The resolved recipe in a JSON file. beside: the folder of the recipe that it was made from.

    Raises OSError when the file cannot be read, ValueError when it is no recipe, or one of a version that is not known.
    """
    tree = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(tree, dict):
        modernise(Document(tree), beside=beside)
    return Recipe.model_validate_json(json.dumps(tree))
