"""What a message says, for people and judges: words, thoughts and calls."""

from alignkit.types.task import message_text


def test_thoughts_words_and_calls_are_all_told():
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
    message = {"role": "assistant", "content": "Let me look.", "reasoning_content": "hm", "tool_calls": [call]}
    assert message_text(message) == '<think>\nhm\n</think>\nLet me look.\nweather({"city": "Zürich"})'
    assert message_text({"role": "user", "content": "Hi"}) == "Hi"
    assert message_text({"role": "assistant", "content": "", "tool_calls": [call]}) == 'weather({"city": "Zürich"})'
