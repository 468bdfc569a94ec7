"""What a policy can write, or a tool answer, that must not end the run, fail its episode or hold it up."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from alignkit.data.tool_formats import FORMATS, read_calls
from alignkit.environments.base import Observation
from alignkit.environments.lift import find_environment
from alignkit.environments.toolbox import Toolbox
from alignkit.types.task import Task
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


@pytest.mark.parametrize("name", ["guess_number", "guess_a_number", "maze", "garden", "double_t_maze", "car_dealer"])
def test_no_utterance_of_the_policy_is_a_fault_of_a_shipped_game(name):
    make = find_environment(name, {})

    async def answered(text: str) -> Observation:
        game = make()
        await game.start(Task(id="t", text="-"), 7)
        return await game.step(text)

    for text in ("", "\n" * 500, "9" * 5000, f"${'9' * 5000}", "<answer>" * 99, "\x00", "\u0663", "move ", "$0", "-1"):
        seen = asyncio.run(answered(text))
        assert math.isfinite(seen.reward)
        assert not seen.success
