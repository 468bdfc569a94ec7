"""Messages in every spelling become the one typed form; what cannot be read is named by row, place and cure."""

import json

import pytest

from alignkit.errors import DataError
from alignkit.types.messages import read_messages

USER = {"role": "user", "content": "Weather in Oslo?"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}


def read(*messages):
    return read_messages(list(messages), where="row 1: messages")


def refused(*messages):
    with pytest.raises(DataError) as caught:
        read(*messages)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        [USER],
        (USER,),
        USER,
        json.dumps([USER]),
        json.dumps(USER),
        str([USER]),
        [{"from": "human", "value": "Weather in Oslo?"}],
        [{"role": "human", "value": "Weather in Oslo?", "from": None, "content": None}],
        [{"role": " User", "content": "Weather in Oslo?", "tool_calls": None, "name": None}],
        [{"role": "user", "content": [{"type": "text", "text": "Weather in ", "image_url": None}, "Oslo?"]}],
        [{"role": "user", "content": {"type": "input_text", "text": "Weather in Oslo?"}}],
        [{"role": "user", "content": [{"text": "Weather in Oslo?"}]}],
    ],
)
def test_one_message_has_many_spellings(value):
    assert read_messages(value, where="here") == [USER]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        *((name, "assistant") for name in ("gpt", "chatgpt", "bing", "bard", "model", "bot", "ai", "Assistant")),
        *((name, "tool") for name in ("function", "ipython", "observation", "tool_response", "tool")),
        ("human", "user"),
        ("SYSTEM", "system"),
        ("developer", "developer"),
        ("critic", "critic"),
        ("Alice", "Alice"),
    ],
)
def test_roles_have_one_name_and_unknown_ones_stay(theirs, ours):
    assert read({"role": theirs, "content": "x"}) == read({"from": theirs, "value": "x"})
    assert read({"role": theirs, "content": "x"})[0]["role"] == ours


@pytest.mark.parametrize(
    "message",
    [
        CALLED,
        {"role": "assistant", "content": None, "tool_calls": [CALL], "function_call": None, "name": None},
        {"role": "assistant", "tool_calls": CALL},
        {"role": "assistant", "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "tool_calls": [json.dumps(CALL)]},
        {"role": "assistant", "tool_calls": [CALL["function"]]},
        {"role": "assistant", "tool_calls": [{"name": "weather", "parameters": {"city": "Oslo", "unit": None}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"role": "assistant", "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        {"from": "gpt", "value": "", "tool_calls": [CALL]},
        {"role": "tool_call", "content": json.dumps([CALL["function"]])},
    ],
)
def test_one_call_has_many_spellings(message):
    assert read(USER, message) == [USER, CALLED]


def test_calls_that_follow_one_another_are_one_turn():
    calls = [{"from": "function_call", "value": json.dumps({"name": name, "arguments": {}})} for name in "ab"]
    called, result, again = read(*calls, {"from": "observation", "value": "1"}, calls[0])
    assert [call["function"]["name"] for call in called["tool_calls"]] == ["a", "b"]
    assert (result["role"], len(again["tool_calls"])) == ("tool", 1)


def test_a_null_is_an_absent_key_in_mappings_and_an_argument_in_the_text_that_the_model_says():
    arguments = {"city": "Oslo", "unit": None}
    [mapping] = read({"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]})
    [text] = read({"role": "assistant", "tool_calls": [{"name": "f", "arguments": json.dumps(arguments)}]})
    assert mapping["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert text["tool_calls"][0]["function"]["arguments"] == arguments
    [empty] = read({"role": "assistant", "tool_calls": [{"name": "f", "arguments": ""}]})
    assert empty["tool_calls"][0]["function"]["arguments"] == {}


def test_ids_and_names_of_calls_and_results_stay():
    called, result = read(
        {"role": "assistant", "tool_calls": [{**CALL, "id": "call_1", "index": 0}]},
        {"role": "function", "name": "weather", "tool_call_id": "call_1", "content": "7 degrees"},
    )
    assert called["tool_calls"] == [{**CALL, "id": "call_1"}]
    assert result == {"role": "tool", "content": "7 degrees", "tool_call_id": "call_1", "name": "weather"}


@pytest.mark.parametrize(
    "spelled",
    [
        {"reasoning_content": "It is 4."},
        {"reasoning": "It is 4.", "reasoning_content": None},
        {"thinking": "It is 4."},
        {"content": [{"type": "thinking", "thinking": "It is 4."}, {"type": "text", "text": "4"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "It is 4."}]}, "4"]},
    ],
)
def test_thoughts_have_one_name(spelled):
    [message] = read({"role": "assistant", "content": "4", **spelled})
    assert message == {"role": "assistant", "content": "4", "reasoning_content": "It is 4."}


@pytest.mark.parametrize("flag", ["weight", "loss", "train", "training", "learnt"])
def test_flags_of_learning_have_one_name(flag):
    for given, learnt in ((0, False), (1, True), (False, False), (1.0, True)):
        [message] = read({"role": "assistant", "content": "4", flag: given})
        assert message == {"role": "assistant", "content": "4", "learnt": learnt}
    assert read({**USER, flag: 0}, {"role": "assistant", "content": "4", flag: None}) == [
        USER,
        {"role": "assistant", "content": "4"},
    ]
    assert f"[0]: `{flag}` is float '0.5'; wanted 0 or 1" in refused({"role": "assistant", "content": "4", flag: 0.5})
    assert "only assistants' is" in refused({**USER, flag: 1})


def test_other_keys_stay_without_nulls():
    assert read({**USER, "documents": [{"title": "a", "url": None}], "id": None}) == [
        {**USER, "documents": [{"title": "a"}]}
    ]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("hello", "row 1: messages[0] is str 'hello'; wanted a message with a role and a content"),
        (None, "messages[0] is NoneType"),
        ({"content": "x"}, "with no role; wanted a `role`"),
        ({"role": 3, "content": "x"}, "with the role int '3'"),
        ({"role": "user", "content": 3}, "messages[0]: its content is int '3'; wanted text"),
        ({"role": "user", "text": "hi"}, "no content, but 'text'; name that `content`"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "its content is image_url"),
        ({"role": "user", "content": ["a", {"type": "input_audio"}]}, "part 1 of its content is input_audio"),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "part 0 of its content is text"),
        ({"role": "tool", "content": {"degrees": 7}}, "its content is dict \"{'degrees': 7}\"; wanted text, so"),
        ({"role": "user", "content": [3]}, "part 0 of its content is int '3'"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{x"}]}, "'{x', which is not JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}, "wanted an object"),
        ({"role": "assistant", "tool_calls": [{"arguments": {}}]}, "messages[0].tool_calls[0] is"),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "name": "f"}]}, "a call of type 'custom'"),
        ({"role": "assistant", "tool_calls": "f()"}, "tool_calls is text 'f()', and not JSON"),
        ({"from": "function_call", "value": None}, "wanted the call as its content or value"),
        ({"from": "function_call", "value": "weather"}, "is text 'weather', and not JSON"),
        ({"role": "assistant", "content": "x", "weight": 1, "train": False}, "contradict one another"),
        ({"role": "assistant", "content": "x", "train_detail": [{"begin": 0}]}, "`train_detail` chooses parts"),
    ],
)  # fmt: skip
def test_a_message_that_cannot_be_read_is_named(message, words):
    assert words in refused(message)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "here is an empty list; wanted at least one message"),
        ("hello", "here is text 'hello', and not JSON"),
        (3, "here is int '3'; wanted text or a list of messages"),
        (None, "here is NoneType"),
        ("[{'role': 'user'\n {'role'", "it is text that Python made of a list; write it with json.dumps"),
    ],
)
def test_what_is_no_conversation_is_named(value, words):
    with pytest.raises(DataError) as caught:
        read_messages(value, where="here")
    assert words in str(caught.value)


def test_turns_of_human_and_assistant_are_two_messages_each():
    assert [message["role"] for message in read(*[{"human": "a", "assistant": "b"}] * 2)] == ["user", "assistant"] * 2


def test_reading_messages_again_changes_nothing():
    once = read(
        {"from": "human", "value": "a"},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"role": "tool", "content": "b", "tool_call_id": 7},
        {"role": "assistant", "content": [{"type": "text", "text": "c"}], "thinking": "d", "weight": 0},
    )
    assert read(*once) == once
