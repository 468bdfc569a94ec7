"""What the JSON of a family says is what its template does, and where TRL ships the published one both agree."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError

from tests.families import FAMILIES, FOLDER, family, tokenizer

FOUR = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "\n\tYo\t\n"},
    {"role": "user", "content": "Again"},
    {"role": "assistant", "content": "Bye"},
]
PUBLISHED = {
    "qwen2_5": "qwen2_5",
    "qwen3": "qwen3",
    "qwen3_5": "qwen3_5_think",
    "deepseek_r1_distill": "deepseek_r1_distill",
    "llama_3_1": "llama3_1",
    "llama_3_2": "llama3_2",
    "gemma_2": "gemma",
    "gemma_3": "gemma3",
    "phi_3": "phi3",
    "command_r": "cohere",
    "glm_4_5": "glm4moe",
    "gpt_oss": "gptoss",
}


def render(name: str, messages: list[dict[str, Any]], template: str | None = None, *, prompt: bool = False) -> str:
    return tokenizer(name).apply_chat_template(
        messages, chat_template=template, add_generation_prompt=prompt, tokenize=False
    )


def refused(name: str, messages: list[dict[str, Any]]) -> bool:
    try:
        render(name, messages)
    except TemplateError:
        return True
    return False


def test_every_template_has_its_facts_and_a_row_in_the_table() -> None:
    table = (FOLDER / "SOURCES.md").read_text()
    assert len(FAMILIES) == 34
    assert {path.stem for path in FOLDER.glob("*.json")} == set(FAMILIES)
    assert [name for name in FAMILIES if f"\n| {name} | " not in table] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_every_token_of_a_family_is_one_id_and_text_survives_the_trip(name: str) -> None:
    words, known = tokenizer(name), family(name)
    for token in known.tokens:
        assert len(words.encode(token, add_special_tokens=False)) == 1, token
        assert (words.convert_tokens_to_ids(token) in words.all_special_ids) == (token not in known.added), token
    text = "".join(known.tokens) + " é\u2003｜▁\t\n  x"
    assert words.decode(words.encode(text, add_special_tokens=False)) == text
    assert (words.eos_token, words.pad_token, words.bos_token) == (known.eos, known.pad, known.bos)
    assert (words.encode("x")[0] == words.bos_token_id) == known.adds_bos


@pytest.mark.parametrize("name", FAMILIES)
def test_a_template_does_what_its_facts_say(name: str) -> None:
    known, whole = family(name), render(name, FOUR)
    prompt = render(name, FOUR[:3], prompt=True)
    assert (prompt == render(name, FOUR[:3])) == (not known.generation_prompt)
    assert ("\n\tYo\t\n" not in whole) == known.trims
    assert whole[whole.index("Bye") + 3 :].strip().startswith(known.turn_end or "\0") == bool(known.turn_end)
    assert (whole.endswith("Bye")) == (known.turn_end is None)
    assert known.opens_thought is None or prompt.endswith(known.opens_thought)
    assert refused(name, [*FOUR[:1], *FOUR[:1]]) == known.alternates
    system = [{"role": "system", "content": "Be kind."}]
    assert refused(name, [*system, *FOUR]) == (known.system == "no")
    if known.system != "no":
        assert "Be kind." in render(name, [*system, *FOUR[:3]])
        assert ("Be kind." in render(name, [*system, *FOUR])) == (known.system != "last")
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    if known.parts:
        assert "Hello" in render(name, parts)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_longer_conversation_begins_with_the_shorter_one_where_the_facts_say_so(name: str) -> None:
    known = family(name)
    system = [] if known.system == "no" else [{"role": "system", "content": "Be kind."}]
    thinking = [dict(message) for message in FOUR]
    if known.drops_thoughts:
        thinking[1] |= {"reasoning_content": "hmm", "thinking": "hmm"}
    shorter = [render(name, [*system, *thinking[:end]]) for end in (1, 2, 3)]
    assert all(map(render(name, [*system, *thinking]).startswith, shorter)) == known.appends
    if known.drops_thoughts:
        assert "hmm" not in render(name, [*system, *thinking])


@pytest.mark.parametrize("name", [name for name in FAMILIES if family(name).tools])
def test_calls_and_results_are_shown_where_the_facts_say_so(name: str) -> None:
    arguments: Any = '{"x": 1}' if name.startswith("deepseek") else {"x": 1}
    call = {"type": "function", "id": "abcdefghi", "function": {"name": "look", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None if name == "deepseek_r1_distill" else "", "tool_calls": [call]},
        {"role": "tool", "content": "found", "tool_call_id": "abcdefghi"},
        {"role": "assistant", "content": "Bye"},
    ]
    text = render(name, messages)
    assert text.index("look") < text.index("found") < text.index("Bye")


PIECES = ("hi", " a ", "\n", "<think>\nx\n</think>\n\ny", "</think>", "é\u2003", "two\n\n")
TEXTS = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
CALLS = st.lists(st.sampled_from([{"a": 1, "b": "é"}, {}]), min_size=1, max_size=2).map(
    lambda asked: [{"type": "function", "function": {"name": "f", "arguments": one}} for one in asked]
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "user", "assistant", "tool"]), "content": TEXTS},
    optional={"reasoning_content": TEXTS, "thinking": TEXTS},
)


@pytest.mark.parametrize("name", PUBLISHED)
@settings(max_examples=40)
@given(messages=st.lists(MESSAGES, min_size=1, max_size=6), calls=CALLS, prompt=st.booleans())
def test_ours_and_the_published_template_write_the_same(
    name: str, messages: list[dict[str, Any]], calls: list[Any], prompt: bool
) -> None:
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    published = (Path(spec.origin).parent / "chat_templates" / f"{PUBLISHED[name]}.jinja").read_text()
    if family(name).tools and name != "deepseek_r1_distill":
        messages = [m | {"tool_calls": calls} if m["role"] == "assistant" and "thinking" in m else m for m in messages]
    outcomes = []
    for template in (published, None):
        try:
            outcomes.append(render(name, messages, template, prompt=prompt))
        except (TemplateError, TypeError, AttributeError):
            outcomes.append(None)
    assert outcomes[0] == outcomes[1]
