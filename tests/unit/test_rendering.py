"""Which tokens of a conversation are learnt: every assistant's turn as the policy would say it, and its end."""

import pytest

from alignkit.data.chat_template import chat_template
from alignkit.data.rendering import render_learnt
from alignkit.data.tokens import continuation_ids, said_text
from alignkit.errors import ContentError, DataError
from alignkit.models.tokenizer import set_chat_template, stop_tokens
from alignkit.recipe.schema import Data
from alignkit.types.task import Task
from tests.families import FAMILIES, family, tokenizer

DATA = Data(source="x")
COLOURS = (("user", "A colour?"), ("assistant", "Blue."), ("user", "A number?"), ("assistant", "Seven."))
ENDS_TURNS = [name for name in FAMILIES if family(name).turn_end and not family(name).opens_thought]


def whole(*said, **columns):
    """A row that is one conversation; its last message is the completion where it is the assistant's."""
    messages = [{"role": role, "content": content} for role, content in said]
    answer = {"completion": messages[-1:]} if messages[-1]["role"] == "assistant" else {}
    return Task(
        id="t",
        messages=tuple(messages[:-1] if answer else messages),
        columns={**answer, **columns},
        conversation=True,
    )


def learnt(name, task, data=DATA):
    """The learnt pieces as text."""
    return [piece.text for piece in render_learnt(tokenizer(name), task, data).pieces if piece.learnt]


def test_all_turns_of_a_conversation_are_learnt_and_what_the_user_says_is_not():
    found = render_learnt(tokenizer("smollm2"), whole(("system", "Be brief."), *COLOURS), DATA)
    assert [piece.text for piece in found.pieces if piece.learnt] == ["Blue.<|im_end|>", "Seven.<|im_end|>"]
    assert found.turns == 2
    assert sum(found.action) == len("Blue.") + len("Seven.") + 2
    assert tokenizer("smollm2").decode(found.prompt).endswith("A colour?<|im_end|>\n<|im_start|>assistant\n")
    assert found.completion[-1] == tokenizer("smollm2").eos_token_id  # the line break behind it is never sampled


@pytest.mark.parametrize("name", ENDS_TURNS)
def test_each_family_learns_its_turns_with_their_ends(name):
    """gpt-oss and OLMo 3 end earlier turns with another token than the last one: they would not teach to stop."""
    if name in ("gpt_oss", "olmo_3"):
        with pytest.raises(DataError, match="does not end the answer in message 1 as it ends a last one"):
            learnt(name, whole(*COLOURS))
        return
    pieces = learnt(name, whole(*COLOURS))
    end = family(name).turn_end
    assert len(pieces) == 2
    assert all(piece.endswith(end) and piece.count(end) == 1 for piece in pieces)
    assert pieces[0].strip().startswith("Blue.")
    assert "Seven." in pieces[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_learns_a_last_answer_with_its_thoughts(name):
    thought = "<think>\nhm\n</think>\n\nBlue."
    [piece] = learnt(name, whole(("user", "A colour?"), ("assistant", thought)))
    assert "hm" in piece
    assert "Blue." in piece
    assert ("<think>" in piece) == (family(name).opens_thought is None)  # what the template opens is not said again
    found = render_learnt(tokenizer(name), whole(("user", "A colour?"), ("assistant", thought)), DATA)
    stops = {stop.id for stop in stop_tokens(tokenizer(name), None)}
    assert found.completion[-1] in stops
    assert all(found.action)


def test_thoughts_of_an_earlier_turn_that_the_template_drops_are_an_error_and_not_a_loss():
    task = whole(*COLOURS[:1], ("assistant", "<think>\nsky\n</think>\n\nBlue."), *COLOURS[2:])
    with pytest.raises(DataError, match="leaves out thoughts of the answer in message 1"):
        learnt("qwen3", task)
    [last] = learnt("qwen3", task, Data(source="x", turns="last"))
    assert last == "<think>\n\n</think>\n\nSeven.<|im_end|>"


def test_a_template_without_a_turn_end_learns_the_last_answer_and_refuses_earlier_ones():
    with pytest.raises(DataError, match="writes no token that ends the answer in message 1"):
        learnt("glm_4", whole(*COLOURS))
    found = render_learnt(tokenizer("glm_4"), whole(*COLOURS), Data(source="x", turns="last"))
    assert found.completion[-1] == tokenizer("glm_4").eos_token_id


def test_messages_may_say_themselves_whether_they_are_learnt():
    task = whole(*COLOURS)
    first = {**task.messages[1], "learnt": False}
    task = Task(id="t", messages=(task.messages[0], first, task.messages[2]), columns=task.columns, conversation=True)
    assert learnt("smollm2", task) == ["Seven.<|im_end|>"]


def test_a_prompt_with_a_history_learns_its_completion_only():
    task = whole(*COLOURS)
    task = Task(id="t", messages=task.messages, columns=task.columns)
    assert learnt("smollm2", task) == ["Seven.<|im_end|>"]


def test_a_conversation_that_ends_with_the_user_learns_what_was_said_before_and_one_without_answers_nothing():
    assert learnt("smollm2", whole(*COLOURS[:3])) == ["Blue.<|im_end|>"]
    assert not any(render_learnt(tokenizer("smollm2"), whole(*COLOURS[:1]), DATA).action)


@pytest.mark.parametrize(
    ("name", "said", "hidden"),
    [
        ("zephyr_blind", (("user", "one"), ("assistant", "two")), "does not show 'one'"),
        ("no_empty", (("user", ""), ("assistant", "two")), "does not show the empty turn"),
        ("no_role", (("narrator", "one"), ("assistant", "two")), "does not show that the role is 'narrator'"),
    ],
)
def test_what_a_template_does_not_show_is_an_error_with_the_row(name, said, hidden):
    import copy

    templates = {
        "zephyr_blind": "{% for m in messages if m.role != 'user' %}{{ m.content }}<|im_end|>{% endfor %}",
        "no_empty": "{% for m in messages if m.content %}{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}",
        "no_role": "{% for m in messages %}{{ m.role[0] if m.role == 'assistant' else 'U' }}:{{ m.content }}<|im_end|>"
        "{% endfor %}",
    }
    words = copy.deepcopy(tokenizer("smollm2"))
    words.chat_template = templates[name]
    with pytest.raises(DataError, match=hidden) as caught:
        render_learnt(words, whole(*said), DATA)
    assert str(caught.value).startswith("task t: ")


def test_a_tool_call_that_the_template_does_not_show_is_an_error():
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    messages = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]})
    task = Task(id="t", messages=messages[:1], columns={"completion": list(messages[1:])}, conversation=True)
    with pytest.raises(DataError, match="does not show 'weather' of the call of 'weather'"):
        learnt("zephyr", task)
    [piece] = learnt("qwen2_5", task)
    assert "weather" in piece
    assert "Oslo" in piece
    assert piece.endswith("<|im_end|>")


def test_arguments_reach_the_template_from_the_recipe_and_the_row_which_comes_first():
    off = Data(source="x", chat_template_kwargs={"enable_thinking": False})
    task = Task(id="t", messages=({"role": "user", "content": "?"},), columns={"completion": "Blue."})
    assert learnt("qwen3", task, off) == ["Blue.<|im_end|>"]  # the empty thought belongs to the prompt
    row = Task(
        id="t", messages=task.messages, columns={**task.columns, "chat_template_kwargs": {"enable_thinking": True}}
    )
    assert learnt("qwen3", row, off) == ["<think>\n\n</think>\n\nBlue.<|im_end|>"]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_template_opens_and_how_it_ends_turns_is_found_out(name):
    found = chat_template(tokenizer(name))
    assert (found.turn_end, found.opened) == (family(name).turn_end, family(name).opens_thought or "")


def test_stop_tokens_are_those_of_all_three_who_name_them():
    class Settings:
        eos_token_id = (1, 0)

    words = tokenizer("gemma_2")
    found = {stop.text: stop.named_by for stop in stop_tokens(words, Settings())}
    assert found[words.eos_token][0] == "tokenizer"
    assert found["<end_of_turn>"] == ("chat template",)
    assert [stop.id for stop in stop_tokens(words, Settings())] == sorted(
        {0, 1, words.eos_token_id, words.convert_tokens_to_ids("<end_of_turn>")}
    )


def test_said_text_keeps_special_tokens_and_leaves_out_stops_and_pads():
    words = tokenizer("qwen3")
    ids = words("<think>a</think>b<|im_end|>", add_special_tokens=False)["input_ids"]
    assert said_text(words, [*ids, words.pad_token_id], [words.eos_token_id]) == "<think>a</think>b"
    assert said_text(words, words("x<|im_start|>y")["input_ids"], [words.eos_token_id]) == "x<|im_start|>y"


def test_a_chat_template_may_be_a_file_and_one_that_is_neither_is_named(tmp_path):
    import copy

    words = copy.deepcopy(tokenizer("smollm2"))
    (tmp_path / "mine.jinja").write_text("\ufeff{{ messages[0].content }}", encoding="utf-8")
    set_chat_template(words, "./mine.jinja", tmp_path)
    assert words.chat_template == "{{ messages[0].content }}"
    set_chat_template(words, "{{ bos_token }}", tmp_path)
    assert words.chat_template == "{{ bos_token }}"
    with pytest.raises(ContentError, match=r"model.chat_template: './yours.jinja' is no Jinja template"):
        set_chat_template(words, "./yours.jinja", tmp_path)


def test_a_continuation_gets_no_space_that_a_sentencepiece_tokenizer_puts_before_texts():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "▁": 1, "4": 2, "a": 3, "\n": 4}
    inner = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    tokens = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert tokens("4", add_special_tokens=False)["input_ids"] == [1, 2]
    assert continuation_ids(tokens, "4") == [2]
    assert continuation_ids(tokens, " 4") == [1, 2]
