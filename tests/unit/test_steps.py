"""Steps of a text, and the tokens that complete them."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alignkit.rewards.steps import last_tokens, settled_ends, split_steps
from tests.pace import takes_at_most

texts = st.text(alphabet=st.sampled_from("ab A1.!? \n\t。é😀👩‍👩‍👧\r"), max_size=60)
rules = st.sampled_from(["blank_line", "newline", "sentence"])


def parts(text, rule="blank_line", **options):
    return [text[span.start : span.end] for span in split_steps(text, rule, **options)]


def test_steps_end_after_blank_lines_with_the_separator():
    assert parts("one\nstill one\n\n\ntwo\n \nthree") == ["one\nstill one\n\n\n", "two\n \n", "three"]
    assert parts("one\r\n\r\ntwo") == ["one\r\n\r\n", "two"]


def test_white_space_is_no_step_of_its_own():
    assert parts("\n\none\n\ntwo\n\n") == ["\n\none\n\n", "two\n\n"]
    assert parts("\n\n") == ["\n\n"]
    assert parts("") == []


def test_sentences_do_not_end_inside_numbers_or_after_initials_and_list_numbers():
    text = 'J. R. Smith has 3.5 apples. "Really?" he asks.\n1. Add them.\n2. It is 7. Done!'
    assert parts(text, "sentence") == [
        "J. R. Smith has 3.5 apples. ",
        '"Really?" ',
        "he asks.\n",
        "1. Add them.\n",
        "2. It is 7. ",
        "Done!",
    ]
    assert parts("ある。次。", "sentence") == ["ある。", "次。"]


def test_a_tag_closes_the_step_before_it():
    assert parts("a ки b ки\n", pattern="ки") == ["a ки", " b ки\n"]
    assert parts("<step>a<step>b", pattern="<step>") == ["<step>a<step>", "b"]
    assert parts("Step 1: x\nStep 2: y", pattern=r"\n(?=Step \d+:)") == ["Step 1: x\n", "Step 2: y"]


@given(texts, rules)
@example("\n\n. a", "sentence")
def test_steps_are_the_whole_text_and_each_says_something(text, rule):
    steps = split_steps(text, rule)
    assert "".join(text[step.start : step.end] for step in steps) == text
    if text.strip():
        assert all(text[step.start : step.end].strip() for step in steps)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


def settled(pieces: list[bytes]) -> list[int]:
    """What `settled_ends` finds for tokens of these bytes."""
    return settled_ends(lambda ids: b"".join(pieces[i] for i in ids).decode(errors="replace"), range(len(pieces)))


def found_tokens(pieces: list[bytes], steps) -> list[int]:
    return last_tokens(settled(pieces), [step.end for step in steps])


def test_an_emoji_in_four_tokens_is_there_with_the_last_of_them():
    pieces = [b"a", b"\xf0", b"\x9f\x98", b"\x80", b"", b"b"]
    assert settled(pieces) == [1, 1, 1, 2, 2, 3]
    assert last_tokens(settled(pieces), [2, 3]) == [3, 5]


def test_a_special_token_inside_an_emoji_does_not_move_its_end():
    assert last_tokens(settled([b"\xf0\x9f", b"", b"\x98\x80"]), [1]) == [2]


def test_a_letter_before_half_an_emoji_counts_at_once():
    assert settled([b"a", b"b\xf0\x9f", b"\x98\x80", b"c"]) == [1, 2, 3, 4]


@given(st.binary(max_size=40), st.lists(st.integers(0, 100), max_size=12))
@example(b"\xf0\x9fA\xf0\x9f\xf0", [1, 2, 3, 4])
def test_ends_never_fall_and_reach_the_decoded_text_whatever_the_bytes(data, places):
    ends = settled(cut(data, places))
    assert ends == sorted(ends)
    assert ends[-1] == len(data.decode("utf-8", "replace"))


@given(texts, rules, st.lists(st.integers(0, 400), max_size=40))
def test_a_step_is_whole_after_its_last_token_and_not_before(text, rule, places):
    """Cut anywhere, also inside characters: the tokens up to the found one hold the step, one token less does not."""
    pieces = cut(text.encode(), places)
    steps = split_steps(text, rule)
    found = found_tokens(pieces, steps)
    assert found == sorted(found)
    for step, token in zip(steps, found, strict=True):
        end = len(text[: step.end].encode())
        assert len(b"".join(pieces[: token + 1])) >= end
        assert len(b"".join(pieces[:token])) < end


def test_a_tokenizer_that_tidies_up_is_read_by_whole_prefixes():
    """Its ` n't` becomes `n't` only when it is complete, so tokens cannot be read by themselves."""
    pieces = ["do", " n", "'t", " go"]
    ends = settled_ends(lambda ids: "".join(pieces[i] for i in ids).replace(" n't", "n't"), range(4))
    assert ends == [2, 2, 5, 8]


def test_tokens_that_end_before_a_step_are_an_error():
    with pytest.raises(ValueError, match="a step ends at character 9; the tokens end at 3"):
        last_tokens(settled([b"abc"]), [9])


def test_a_long_text_is_mapped_in_linear_time():
    pieces = [f"{i} ".encode() for i in range(20_000)]
    assert settled(pieces)[-1] == sum(map(len, pieces))
    assert takes_at_most(2, lambda: settled(pieces))


def test_a_byte_level_tokenizer_s_tokens_map_to_steps():
    """A real byte-level BPE with few merges, so that emoji and accents are several tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(["the answer is the answer", "so é = 😀"], vocab_size=280)
    text = "so the answer is 😀😀.\n\nNo: é 👩‍👧\n\nthe end"
    ids = model.encode(text).ids
    assert len(ids) > len(text) - 20
    found = last_tokens(settled_ends(model.decode, ids), [step.end for step in split_steps(text)])
    assert [model.decode(ids[: token + 1]) for token in found] == [
        "so the answer is 😀😀.\n\n",
        "so the answer is 😀😀.\n\nNo: é 👩‍👧\n\n",
        text,
    ]


@pytest.mark.parametrize("rule", ["blank_line", "newline", "sentence"])
@pytest.mark.parametrize("unit", [".", "\n", " ", "\r\n", "\n ", '."', "! ", "A.", "1.", "。", ".\n\n", "a", '"'])
def test_a_megabyte_of_anything_is_split_in_linear_time(rule, unit):
    text = unit * (1_000_000 // len(unit)) + "x"
    steps = []
    assert takes_at_most(5, lambda: steps.extend(split_steps(text, rule)))
    assert steps[0].start == 0
    assert steps[-1].end == len(text)
