"""Rows that the fuzz of tests/fuzz found, each with what must come of it."""

from __future__ import annotations

from typing import Any

import pytest

from alignkit.errors import DataError
from tests.families import tokenizer
from tests.fuzz.doors import episode, learnt, prompt_ids
from tests.fuzz.oracle import learnt_texts

USER: dict[str, Any] = {"role": "user", "content": "Hi"}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def taught(name: str, row: dict[str, Any], **settings: Any) -> list[str]:
    return learnt_texts(tokenizer(name), learnt(tokenizer(name), row, **settings))


def test_a_call_for_which_a_template_forgets_the_role_spoils_no_other_row() -> None:
    call = {"type": "function", "id": "a", "function": {"name": "look", "arguments": {"x": "1"}}}
    tool = {"role": "tool", "content": "found", "tool_call_id": "a", "name": "look"}
    seen = [USER, assistant("", tool_calls=[call]), tool, assistant("Bye")]
    assert len(taught("llama_3_2", {"messages": seen})) == 2
    assert taught("llama_3_2", {"messages": [USER, assistant("Yo")]}) == ["Yo<|eot_id|>"]


def test_what_closes_a_conversation_behind_its_last_turn_is_not_learnt() -> None:
    row = {"messages": [USER, assistant("Yo"), USER, assistant("Bye")]}
    assert taught("phi_3", row) == ["Yo<|end|>", "Bye<|end|>"]


@pytest.mark.parametrize("turns", ["all", "last"])
def test_two_turns_of_the_assistant_are_two_answers_and_no_header_is_learnt(turns: str) -> None:
    row = {"messages": [USER, assistant("A"), assistant("B")]}
    both = ["A<|im_end|>", "B<|im_end|>"]
    assert taught("smollm2", row, turns=turns) == (both if turns == "all" else both[1:])


@pytest.mark.parametrize("begun", ["", "Well, "])
def test_a_completion_that_goes_on_with_an_empty_beginning_is_learnt_too(begun: str) -> None:
    row = {"prompt": [USER, assistant(begun)], "completion": [assistant("yes")]}
    assert taught("smollm2", row) == ["yes<|im_end|>"]


def test_half_a_surrogate_pair_is_named_with_its_line() -> None:
    with pytest.raises(DataError, match=r"line 1: holds '\\ud800'"):
        prompt_ids(tokenizer("smollm2"), [{"role": "user", "content": "a\ud800"}])


def test_an_episode_that_a_template_cannot_show_is_named() -> None:
    with pytest.raises(DataError, match=r"task rows.jsonl/0: turn 2: the chat template rewrites"):
        episode(tokenizer("llama_2"), [("Hi", "Yo"), ("Again", "Bye")])


def test_thoughts_that_a_template_knows_by_another_name_are_learnt() -> None:
    row = {"prompt": [USER], "completion": [assistant("Yo", reasoning_content="Say Yo.")]}
    thought = "<|channel|>analysis<|message|>Say Yo.<|end|><|start|>assistant<|channel|>final<|message|>Yo<|return|>"
    assert taught("gpt_oss", row) == [thought]


def test_thoughts_that_a_template_never_shows_are_not_left_out_in_silence() -> None:
    for messages in (
        [USER, assistant("Yo", thinking="hm")],
        [USER, assistant("Yo", thinking="hm"), USER, assistant("B")],
    ):
        with pytest.raises(DataError, match=r"thoughts of the (last )?answer"):
            taught("smollm2", {"messages": messages})
