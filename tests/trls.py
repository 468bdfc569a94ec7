"""TRL's own modules, for tests that hold ours against them."""

from __future__ import annotations

import warnings
from typing import Any
from unittest import mock

import pytest


def trl_module(name: str) -> Any:
    """A module of TRL as it is where there is no vLLM: importing that takes seconds, and nothing of it is used here.

    To be called by tests, not while they are collected, which every worker does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental methods
        imports = pytest.importorskip("trl.import_utils")
        with mock.patch.object(imports, "is_vllm_available", return_value=False):
            return pytest.importorskip(name)
