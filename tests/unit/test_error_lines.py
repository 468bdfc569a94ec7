"""What other libraries' errors say fits on one line of ours."""

from __future__ import annotations

import pytest

from alignkit.errors import first_line, on_one_line


@pytest.mark.parametrize(
    ("message", "first", "whole"),
    [
        ("it broke", "it broke", "it broke"),
        ("\n  it broke\nsomewhere  deep\n", "it broke", "it broke somewhere deep"),
        ("2 problems:\nno width\nno depth", "2 problems: no width", "2 problems: no width no depth"),
        ("", "ValueError", "ValueError"),
        (" \n ", "ValueError", "ValueError"),
    ],
)
def test_an_error_of_many_lines_or_none_is_one_line(message, first, whole):
    assert first_line(ValueError(message)) == first
    assert on_one_line(ValueError(message)) == whole


def test_a_long_error_is_cut():
    assert on_one_line(ValueError("ab " * 500), limit=6) == "ab ab "[:6]
