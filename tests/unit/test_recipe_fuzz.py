"""Whatever bytes or values a recipe holds, reading it ends in a Recipe or in located lines, never in another error."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.errors import ContentError, RecipeError
from alignkit.recipe.problems import Located
from alignkit.recipe.read import STAGE_SECTIONS, read_recipe
from alignkit.recipe.schema import Recipe, Stage

LOCATED = re.compile(r"^(r\.yaml|<command line>):\d+: .+$")
GOOD = {
    "model": {"scratch": {}},
    "data": {"source": "generator:arithmetic"},
    "rewards": [{"name": "exact_match"}],
    "rollouts": {"engine": "hf", "max_new_tokens": 8},
    "algorithm": {"type": "grpo"},
    "optimizer": {"lr": 1e-3},
    "train": {"steps": 2},
}
NAMES = [
    *Recipe.model_fields,
    *Stage.model_fields,
    "type",
    "source",
    "path",
    "lr",
    "steps",
    "name",
    "options",
    "extends",
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module", autouse=True)
def _folder():
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def outcome(content: bytes, overrides: list[str]) -> list[str]:
    """The error lines of a recipe; empty when it is valid."""
    Path("r.yaml").write_bytes(content)
    try:
        read_recipe("r.yaml", overrides)
    except RecipeError as error:
        return error.problems
    return []


@settings(max_examples=300, deadline=None)
@given(st.binary() | st.text(alphabet=" \n:-[]{}&*!#'\"a1.,\t|>%?", max_size=60).map(str.encode))
def test_any_bytes_end_in_located_lines(content):
    lines = outcome(content, [])
    assert lines
    assert all(LOCATED.match(line) for line in lines), lines


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(st.sampled_from([*NAMES, *STAGE_SECTIONS]), VALUES, max_size=6))
def test_any_values_in_any_section_end_in_located_lines(changes):
    lines = outcome(json.dumps({**GOOD, **changes}).encode(), [])
    assert all(LOCATED.match(line) for line in lines), lines


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([*NAMES, "0", "3", ""]), min_size=1, max_size=3), st.text(max_size=12))
def test_any_override_ends_in_located_lines(path, value):
    lines = outcome(json.dumps(GOOD).encode(), [f"{'.'.join(path)}={value}"])
    assert all(LOCATED.match(line) for line in lines), lines


def test_a_recipe_of_the_fuzzer_is_valid_before_it_is_changed():
    assert outcome(json.dumps(GOOD).encode(), []) == []
    assert not Located({})
    with pytest.raises(ContentError):
        read_recipe("absent.yaml")
