"""What must start without the heavy libraries does, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from alignkit.recipe.lookup.find import list_content

HEAVY = ("torch", "transformers", "vllm", "deepspeed", "datasets", "pyarrow", "math_verify", "sympy", "trl", "peft")
ALGORITHMS = [found.module for found in list_content("algorithms") if found.module]
RECIPE = ("document", "explain", "lookup.find", "lookup.outline", "problems", "read", "rules", "schema", "settings")


def heavy_after(code: str) -> list[str]:
    """The heavy libraries that a fresh interpreter holds after running `code`."""
    ask = f"{code}\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_the_check_itself_sees_a_heavy_library():
    assert heavy_after("import numpy; sys_modules = __import__('sys').modules; sys_modules['torch'] = numpy") == [
        "torch"
    ]


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param(["alignkit"], id="package"),
        pytest.param(["alignkit.cli.main"], id="command line"),
        pytest.param(
            ["alignkit.ops", "alignkit.errors", "alignkit.types.rollout", "alignkit.types.metric"], id="types"
        ),
        pytest.param(["alignkit.algorithms.base", *ALGORITHMS], id="algorithms"),
        pytest.param([f"alignkit.recipe.{name}" for name in RECIPE], id="recipe"),
        pytest.param(
            ["alignkit.engines.engine", "alignkit.rollout.collect", "alignkit.run.launch.launched"], id="rollout"
        ),
    ],
)
def test_importing_it_loads_no_heavy_library(modules):
    assert heavy_after("\n".join(f"import {module}" for module in modules)) == []


def test_the_config_of_every_algorithm_is_read_and_explained_without_torch():
    read = "; ".join(f"from {module} import ALGORITHM as a; a.explain(a.config(type='x'))" for module in ALGORITHMS)
    assert heavy_after(read) == []
