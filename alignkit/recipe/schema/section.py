"""What all sections of a recipe have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections and of every algorithm's Config."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
