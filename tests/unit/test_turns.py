"""Transcripts: the policy's tokens stay as they were sampled, templates may only append, given turns are masked."""

from __future__ import annotations

from typing import Any

import pytest

from alignkit.data.offline.transitions import learn
from alignkit.data.turns import Renderer, Transcript
from alignkit.errors import DataError
from alignkit.models.tokenizer import character_tokenizer
from alignkit.types.task import Task

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = CHATML.replace("m['content']", "m['content'] | trim")
FORGETTING = CHATML.replace("m['content']", "m['content'].split('|')[-1] if m['role'] == 'assistant' else m['content']")
COUNTING = "{{ messages | length }}" + CHATML


def merging_tokenizer(template: str) -> Any:
    """Letters are tokens and `ab` is one more, so that text sampled as `a`, `b` would be encoded otherwise."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate(["<|im_start|>", "<|im_end|>", *letters, "ab"])}
    core = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    core.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", bos_token="<|im_start|>", clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = template
    return wrapped


def chat(template: str = CHATML, **options: Any) -> tuple[Transcript, Any]:
    tokenizer = merging_tokenizer(template)
    return Renderer(tokenizer=tokenizer, chat=True, **options).begin(), tokenizer


def ids_of(tokenizer: Any, *tokens: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def test_what_was_sampled_is_never_encoded_again():
    transcript, tokenizer = chat()
    transcript.observe("q")
    a, b, end, merged = ids_of(tokenizer, "a", "b", "<|im_end|>", "ab")
    transcript.act([a, b, end])
    transcript.observe("ab")
    assert transcript.ids.count(merged) == 1, "only the observation is encoded"
    text = tokenizer.decode(transcript.ids)
    assert text == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nab<|im_end|>\n"
        "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"
    )
    chosen = [i for i, on in zip(transcript.ids, transcript.action, strict=True) if on]
    assert chosen == [a, b, end]


def test_the_stop_token_is_the_policys_when_it_chose_it_and_ours_when_its_turn_was_cut():
    for tokens, chosen in ((("a", "<|im_end|>"), 2), (("a",), 1)):
        transcript, tokenizer = chat()
        transcript.observe("q")
        transcript.act(ids_of(tokenizer, *tokens))
        transcript.observe("r")
        assert sum(transcript.action) == chosen
        assert tokenizer.decode(transcript.ids).count("a<|im_end|>\n<|im_start|>user\nr") == 1


def test_every_turn_is_the_template_of_the_whole_conversation():
    transcript, tokenizer = chat(system="be brief")
    messages: list[dict[str, str]] = [{"role": "system", "content": "be brief"}]
    for number in range(4):
        transcript.observe(f"question {number}")
        messages.append({"role": "user", "content": f"question {number}"})
        whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert tokenizer.decode(transcript.ids) == whole
        transcript.act([*tokenizer.encode(f"x{number}"), tokenizer.eos_token_id])
        messages.append({"role": "assistant", "content": f"x{number}"})


@pytest.mark.parametrize("template", [FORGETTING, COUNTING])
def test_a_template_that_rewrites_earlier_turns_is_refused_by_the_turn(template):
    transcript, tokenizer = chat(template)
    transcript.observe("q")
    transcript.act([*tokenizer.encode("plan|act"), tokenizer.eos_token_id])
    before = list(transcript.ids)
    with pytest.raises(DataError, match=r"turn 2: the chat template rewrites earlier turns: .*only appends"):
        transcript.observe("r")
    assert transcript.ids == before


def test_a_template_that_trims_an_utterance_is_not_rewriting():
    transcript, tokenizer = chat(TRIMMING)
    transcript.observe("q")
    transcript.act([*tokenizer.encode(" a "), tokenizer.eos_token_id])
    transcript.observe("r")
    assert tokenizer.decode(transcript.ids).count("assistant\n a <|im_end|>\n<|im_start|>user\nr") == 1


def test_a_template_that_refuses_is_an_error_that_names_the_turn():
    transcript, _ = chat("{{ raise_exception('no tools here') }}")
    with pytest.raises(DataError, match="turn 1: the chat template refuses its messages: no tools here"):
        transcript.observe("q")
    transcript, tokenizer = chat()
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        transcript.observe("q")


def characters() -> Renderer:
    return Renderer(tokenizer=character_tokenizer("0123456789?<>", context=64), chat=False)


def test_characters_are_concatenated_with_the_stop_token_between_turns():
    renderer = characters()
    transcript = renderer.begin()
    transcript.observe("?")
    transcript.act([*renderer.encode("12"), 2])
    transcript.observe(">")
    transcript.act(renderer.encode("137"))  # cut at its length: the stop token that follows is not the policy's
    transcript.observe("<")
    assert renderer.tokenizer.decode(transcript.ids) == "?12<eos>>137<eos><"
    assert transcript.action == [False, True, True, True, False, True, True, True, False, False]


def test_given_turns_are_learnt_with_their_stop_tokens_and_without_the_environments_text():
    turns = [{"observation": "?", "action": "10"}, {"observation": "<", "action": "4"}]
    prompt, completion, action = learn(characters(), Task(id="g", text="?", columns={"turns": turns}), 64)
    renderer = characters()
    assert renderer.tokenizer.decode(prompt) == "?"
    assert renderer.tokenizer.decode(completion) == "10<eos><4<eos>"
    assert action == [True, True, True, False, True, True]


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([], "column 'turns' is"),
        ("?10", "turn 1 is '?'"),
        ([{"observation": "?", "action": "1"}, {"observation": "?"}], "turn 2 is"),
        ([{"observation": "?", "action": "1" * 70}], "have 72 tokens, the limit is 64"),
    ],
)
def test_given_turns_of_another_shape_are_refused_by_task_and_turn(turns, problem):
    with pytest.raises(DataError, match=f"task g: .*{problem}".replace("?", r"\?")):
        learn(characters(), Task(id="g", text="?", columns={"turns": turns}), 64)
