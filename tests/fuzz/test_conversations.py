"""Whatever stands in a conversation: prompts, what is learnt, pairs, packing keep their promises, or it is refused.

`make test` tries some hundreds, `make test-slow` twenty thousand. A failing one is printed whole and shrunk; write it
down as an `@example`, or as a test of its own beside the code that was mended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from alignkit.errors import DataError
from alignkit.types.batch import pack
from alignkit.types.item import Item
from tests.families import tokenizer
from tests.fuzz import doors, oracle
from tests.fuzz.conversations import Conversation, Said, conversations

QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
FEW = settings(max_examples=60, deadline=None, suppress_health_check=QUIET)


def many(count: int) -> settings:
    return settings(FEW, max_examples=count, print_blob=True)


def attempt(conversation: Conversation, door: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """What the door gives; None where it refuses the row, which only rows that are not plain may be, by name."""
    words = tokenizer(conversation.known.name)
    try:
        return door(words, *arguments, **settings)
    except DataError as error:
        refusal = str(error)
    assert any(name in refusal for name in doors.NAMES), f"the error does not name the row: {refusal}"
    assert not conversation.plain or excused(conversation), f"a plain conversation was refused: {refusal}"
    return None


def excused(conversation: Conversation) -> bool:
    """Whether the family cannot teach even a plain conversation: its prompts are no part of its answered conversations,
    nothing or another token ends an answer that others follow, or it opens a thought that the answer does not have."""
    known, said = conversation.known, conversation.said
    moves = known.system == "last" and said[0].role == "system"
    otherwise = known.turn_end is None or known.name in ("gpt_oss", "olmo_3")
    unthinking = known.opens_thought is not None and said[-1].role == "assistant"
    return moves or unthinking or (otherwise and len(answers_of(said)) > 1)


def dropped(conversation: Conversation, one: Said) -> bool:
    """Whether the family takes what stands before a `</think>` in an earlier answer for a thought, and drops it."""
    return one.role == "assistant" and conversation.known.drops_thoughts and "</think>" in one.text


def answers_of(said: tuple[Said, ...]) -> list[Said]:
    return [one for one in said if one.role == "assistant"]


def check_prompt(conversation: Conversation) -> None:
    words, known = tokenizer(conversation.known.name), conversation.known
    ids = attempt(conversation, doors.prompt_ids, conversation.messages)
    if ids is None:
        return
    text = oracle.decoded(words, ids)
    for one in conversation.said:
        assert not one.mark or dropped(conversation, one) or one.mark in text, (
            f"the prompt does not show {one.mark} of {one.role}"
        )
    assert ids == doors.prompt_ids(words, conversation.messages)
    if known.bos is not None:
        assert ids[:2] != [words.bos_token_id] * 2 or text.startswith(known.bos * 2)
    if conversation.plain:
        told = [{"role": one.role, "content": one.text} for one in conversation.said]
        assert text == words.apply_chat_template(told, add_generation_prompt=True, tokenize=False)


def check_spelling(conversation: Conversation) -> None:
    """Nulls for absent keys, parts for text, null for no words, JSON for arguments: the same prompt."""
    words = tokenizer(conversation.known.name)
    one_way = attempt(conversation, doors.prompt_ids, conversation.messages)
    told = []
    for message, one in zip(conversation.messages, conversation.said, strict=True):
        content = message["content"]
        spelled = {key: value for key, value in reversed(message.items()) if value is not None}
        if not isinstance(content, str):
            spelled["content"] = one.text
        elif content:
            spelled["content"] = [{"type": "text", "text": content}]
        told.append({**spelled, "train": None, "weight": None})
    try:
        other_way = doors.prompt_ids(words, told)
    except DataError:
        other_way = None
    assert one_way == other_way


def check_continued(conversation: Conversation) -> None:
    """A prompt that ends with the assistant's words is gone on with behind them."""
    words, last = tokenizer(conversation.known.name), conversation.said[-1]
    ids = attempt(conversation, doors.prompt_ids, conversation.messages)
    if ids is None or last.calls:
        return
    text = oracle.squashed(oracle.decoded(words, ids), conversation.known)
    assert text.endswith(oracle.squashed(last.text, conversation.known))


def check_learnt(conversation: Conversation, turns: str) -> None:
    words, known = tokenizer(conversation.known.name), conversation.known
    row = {"messages": list(conversation.messages)}
    seen: doors.Learnt | None = attempt(conversation, doors.learnt, row, turns=turns)
    if seen is None:
        return
    assert len(seen.action) == len(seen.completion)
    answers = answers_of(conversation.said)
    answers = answers[-1:] if turns == "last" else answers
    texts = oracle.learnt_texts(words, seen)
    oracle.check_only_answers_are_learnt(conversation, texts, answers)
    oracle.check_every_letter_is_learnt(known, words, texts, answers)
    oracle.check_calls_are_learnt(texts, answers)
    whole = oracle.decoded(words, seen.ids)
    for one in conversation.said:
        context = not any(one is answer for answer in answers)
        assert not one.mark or one.mark in whole or (context and dropped(conversation, one)), f"{one.mark} is lost"
    assert seen == doors.learnt(words, row, turns=turns)
    if conversation.plain and known.turn_end is not None and len(seen.runs) == len(answers):
        places = [place for place, one in enumerate(conversation.said) if one.role == "assistant"]
        for (start, _), place in zip(seen.runs, places[-len(answers) :], strict=True):
            before = doors.prompt_ids(words, conversation.messages[:place])
            assert list(seen.ids[:start]) == before, "what stands before an answer is not its prompt"


def check_completion(conversation: Conversation) -> None:
    """A prompt and its completion: the same tokens before it as in sampling, all of it learnt."""
    words = tokenizer(conversation.known.name)
    *before, answer = conversation.messages
    row = {"prompt": before, "completion": [answer]}
    assume(before)
    seen: doors.Learnt | None = attempt(conversation, doors.learnt, row)
    if seen is None:
        return
    said = conversation.said[-1]
    if conversation.said[-2].role == "assistant":  # the completion goes on with what the prompt began
        return
    texts = oracle.learnt_texts(words, seen)
    assert len(texts) == 1
    oracle.check_only_answers_are_learnt(conversation, texts, [said])
    oracle.check_every_letter_is_learnt(conversation.known, words, texts, [said])
    assert list(seen.prompt) == doors.prompt_ids(words, before)
    assert all(seen.action)


def check_pair(conversation: Conversation, whole: bool) -> None:
    """Two answers to one prompt, as completions or as whole conversations: one prompt, each side as it is alone."""
    words = tokenizer(conversation.known.name)
    *before, answer = conversation.messages
    assume(before and conversation.said[-1].mark and conversation.said[-2].role != "assistant")
    other = {"role": "assistant", "content": "Something else, m99q."}
    start = before if whole else []
    row = {"chosen": [*start, answer], "rejected": [*start, other]} | ({} if whole else {"prompt": before})
    got = attempt(conversation, doors.pair, row)
    if got is None or got[0] is None:
        assert got is None or not conversation.plain, f"a plain pair is left out: {got[1].report()}"
        return
    pair, _ = got
    sides = [oracle.decoded(words, side) for side in (pair.chosen, pair.rejected)]
    assert "m99q" in sides[1]
    assert conversation.said[-1].mark in sides[0]
    assert list(pair.prompt) == doors.prompt_ids(words, before)
    alone = doors.learnt(words, {"prompt": before, "completion": [answer]})
    assert (alone.prompt, alone.completion) == (pair.prompt, pair.chosen)
    judged = [(one.prompt, one.completion, one.good) for one in doors.judged(words, row)]
    assert judged == [(pair.prompt, pair.chosen, True), (pair.prompt, pair.rejected, False)]


def check_episode(conversation: Conversation) -> None:
    """What an environment said and what was done: the observations are masked, every action and its end is learnt."""
    words, known = tokenizer(conversation.known.name), conversation.known
    pairs = zip(conversation.said, conversation.said[1:], strict=False)
    turns = [(seen, done) for seen, done in pairs if seen.role == "user" and done.role == "assistant"]
    told = [(seen.text, done.text) for seen, done in turns]
    assume(all(seen.mark and done.mark for seen, done in turns) and turns)
    appends = known.appends and not known.trims and known.opens_thought is None
    asked = conversation if appends or len(told) == 1 else replace(conversation, wild=True)  # it may refuse the second
    seen: doors.Learnt | None = attempt(asked, doors.episode, told)
    if seen is None:
        return
    texts = oracle.learnt_texts(words, seen)
    end = known.turn_end or known.eos
    assert texts == [action + end for _, action in told]
    whole = oracle.decoded(words, seen.ids)
    for observation, _ in turns:
        assert observation.mark in whole
        assert observation.mark not in "".join(texts)
    if appends and known.turn_end is not None and not any(action != action.strip() for _, action in told):
        roles = ("user", "assistant")
        spoken = [{"role": role, "content": text} for turn in told for role, text in zip(roles, turn, strict=True)]
        assert words.apply_chat_template(spoken, tokenize=False).startswith(whole)


def check_packing(first: Conversation, second: Conversation) -> None:
    """Masks and tokens of a row are the same alone, beside others and with its prompt shared."""
    rows = []
    for conversation in (first, second):
        seen = attempt(conversation, doors.learnt, {"messages": list(conversation.messages)})
        if seen is not None and seen.prompt and seen.completion:
            rows.append(seen)
    assume(rows)
    items = [
        Item(prompt_ids=seen.prompt, completion_ids=seen.completion, action=seen.action, group=group, member=member)
        for group, seen in enumerate(rows)
        for member in range(2)
    ]
    for share in (True, False):
        batch = pack(items, share_prefix=share).validate()
        for index, item in enumerate(items):
            own = batch.segment == index
            assert batch.tokens[own].tolist() == list(item.completion_ids)
            assert batch.action_mask[own].tolist() == list(item.action or ())
        assert batch.num_actions == sum(sum(item.action or ()) for item in items)


ASKING, ANSWERED = conversations(ends="user"), conversations(ends="assistant")
CHECKS: dict[str, tuple[Callable[..., None], tuple[st.SearchStrategy[Any], ...]]] = {
    "prompts": (check_prompt, (ASKING,)),
    "spellings": (check_spelling, (ASKING,)),
    "prompts gone on with": (check_continued, (ANSWERED,)),
    "conversations": (check_learnt, (ANSWERED, st.sampled_from(["all", "last"]))),
    "completions": (check_completion, (ANSWERED,)),
    "pairs": (check_pair, (ANSWERED, st.booleans())),
    "episodes": (check_episode, (ANSWERED,)),
    "packing": (check_packing, (ANSWERED, ANSWERED)),
}


def run(what: str, count: int) -> None:
    check, strategies = CHECKS[what]

    @many(count)
    @given(arguments=st.tuples(*strategies))
    def of(arguments: tuple[Any, ...]) -> None:
        check(*arguments)

    of()


FAST = {"conversations": 100, "packing": 20}


@pytest.mark.parametrize("what", CHECKS)
def test_what_stands_in_a_conversation_is_kept_or_the_row_is_refused(what: str) -> None:
    run(what, FAST.get(what, 40))


SLOW = {
    "prompts": 3000,
    "spellings": 2000,
    "prompts gone on with": 2500,
    "conversations": 6500,
    "completions": 3000,
    "pairs": 1500,
    "episodes": 1000,
    "packing": 500,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CHECKS)
def test_twenty_thousand_conversations_are_kept_or_refused(what: str) -> None:
    run(what, SLOW[what])
