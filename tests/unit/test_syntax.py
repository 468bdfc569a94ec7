"""Python's own miscount while it builds a tree is no verdict about the text."""

from __future__ import annotations

import ast

import pytest

from alignkit.types import syntax


@pytest.mark.parametrize(("miscounts", "reads"), [(0, True), (4, True), (5, False)])
def test_a_miscount_is_tried_again_but_not_for_ever(monkeypatch, miscounts, reads):
    left = [miscounts]

    def parse(code):
        left[0] -= 1
        if left[0] >= 0:
            raise SystemError("AST constructor recursion depth mismatch (before=39, after=34)")
        return real(code)

    real = ast.parse
    monkeypatch.setattr(syntax.ast, "parse", parse)
    if reads:
        assert isinstance(syntax.parsed("x = 1").body[0], ast.Assign)
    else:
        with pytest.raises(SystemError):
            syntax.parsed("x = 1")


def test_what_is_no_python_is_said_at_once():
    with pytest.raises(SyntaxError):
        syntax.parsed("x = ")
