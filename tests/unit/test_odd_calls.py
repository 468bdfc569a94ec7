"""What a policy can write instead of a call, or a tool answer, that must not end the run or hold it up."""

from __future__ import annotations

import asyncio
import time

from alignkit.data.tool_formats import FORMATS, read_calls
from alignkit.environments.toolbox import Toolbox
from tests.unit.test_tools import call


def test_half_a_surrogate_pair_in_a_call_or_a_result_ends_no_run():
    said = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "\\ud800": 2}}\n</tool_call>'
    hermes = next(one for one in FORMATS if one.name == "hermes")
    message = read_calls(said, hermes.template, [])
    assert message["tool_calls"][0]["type"] == "malformed"
    assert "surrogates not allowed" in message["tool_calls"][0]["function"]["arguments"]["problem"]

    def half() -> str:
        """Half a pair."""
        return "a\ud800b"

    [result] = asyncio.run(Toolbox.of([half], deadline_s=5, characters=9).call([call("half")]))
    assert result.text == "a?b"


def test_a_parameter_that_is_never_closed_is_read_in_time_whatever_blank_lines_follow():
    xml, begun = next(one for one in FORMATS if one.name == "xml"), time.monotonic()
    for before in ("", " x"):
        read_calls(f"<tool_call>\n<function=f>\n<parameter=a>{before}" + "\n" * 3000, xml.template, [])
    assert time.monotonic() - begun < 10, "a minute where the pattern tries every way to share the blank lines out"
