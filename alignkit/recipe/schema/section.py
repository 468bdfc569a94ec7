"""What all sections of a recipe have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections and of every algorithm's Config."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Older keys that recipes may still have: dotted path -> dotted path, both from this section.
    `not ` before the new one: it says the opposite."""
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Older values: dotted path of a setting -> older name -> name."""
