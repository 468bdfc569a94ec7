"""The gateway: what a program is answered goes on token by token, and what it edits is never learnt."""

from __future__ import annotations

import json

import pytest

from alignkit.rollout.gateway.wire import Refusal
from alignkit.rollout.items import items
from alignkit.types.turn import EpisodeEnd
from tests.unit.gateway_sessions import asked, assistant, learnt, rollout, session, text_of, user
from tests.unit.test_turns import FORGETTING


def test_a_conversation_that_goes_on_begins_with_the_tokens_that_were_sampled():
    one = session()
    first = asked(one, user("q"))
    second = asked(one, user("q"), assistant("ab"), user("ab"))
    assert second.parent == first.number
    assert second.prompt_ids[: len(first.ids)] == first.ids, "a, b and the stop token, not the one token ab"
    new = one.renderer.tokenizer.convert_tokens_to_ids("ab")
    assert second.prompt_ids.count(new) == 1, "only what the program said anew is encoded"
    [item] = items(rollout(one), reward=1.0)
    assert sum(item.action) == 6
    assert learnt(one) == ["ab<|im_end|>ab<|im_end|>"]


def test_an_edited_answer_forks_and_is_never_learnt():
    one = session()
    asked(one, user("q"))
    forked = asked(one, user("q"), assistant("edited"), user("r"))
    assert forked.parent is None
    assert [call.number for chain in one.recording.chains() for call in chain] == [0, 1]
    assert learnt(one) == ["ab<|im_end|>", "ab<|im_end|>"], "`edited` is context, it was not sampled"


def test_an_edit_in_the_midst_forks_where_it_is_and_what_lies_before_is_learnt_once():
    said = iter(["a", "b", "c", "d"])
    one = session(lambda _: next(said))
    asked(one, user("q"))
    asked(one, user("q"), assistant("a"), user("r"))
    asked(one, user("q"), assistant("a"), user("r"), assistant("b"), user("s"))
    fork = asked(one, user("q"), assistant("a"), user("other"))
    assert fork.parent == 0
    assert [[call.number for call in chain] for chain in one.recording.chains()] == [[0, 1, 2], [3]]
    assert sorted(learnt(one)) == ["a<|im_end|>b<|im_end|>c<|im_end|>", "d<|im_end|>"]


def test_a_template_that_rewrites_begins_anew_and_nothing_of_it_counts_as_said():
    said = iter(["x|y", "z"])
    one = session(lambda _: next(said), template=FORGETTING)
    asked(one, user("q"))
    second = asked(one, user("q"), assistant("x|y"), user("r"))
    assert second.parent is None
    assert "x|y" not in text_of(one, second.prompt_ids)
    assert learnt(one) == ["x|y<|im_end|>", "z<|im_end|>"]


def test_an_answer_that_was_asked_for_again_and_dropped_is_not_learnt():
    said = iter(["a", "b", "c"])
    one = session(lambda _: next(said))
    asked(one, user("q"))
    asked(one, user("q"))
    asked(one, user("q"), assistant("b"), user("r"))
    assert one.recording.retried == {0}
    assert learnt(one) == ["b<|im_end|>c<|im_end|>"]


def test_a_sub_agent_with_a_system_prompt_of_its_own_is_a_sequence_of_its_own_with_the_same_return():
    one = session()
    asked(one, {"role": "system", "content": "plan"}, user("q"))
    asked(one, {"role": "system", "content": "code"}, user("do"))
    asked(one, {"role": "system", "content": "plan"}, user("q"), assistant("ab"), user("go on"))
    found = items(rollout(one, 2.0), reward=2.0)
    assert [sum(item.action) for item in found] == [3, 6]
    assert [item.reward for item in found] == [2.0, 2.0]
    assert sum(turn.reward for turn in rollout(one, 2.0).turns) == 2.0, "it is paid once"
    assert rollout(one).turns[-1].prompt_ids == one.recording.calls[-1].prompt_ids, "the last call is judged"


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "the last message is the assistant's"),
        ([user("q"), assistant("I begin")], "the last message is the assistant's"),
    ],
)
def test_what_the_policy_cannot_answer_is_refused(messages, told):
    with pytest.raises(Refusal, match=told):
        asked(session(), *messages)


def test_budgets_of_calls_and_of_context_end_the_episode_by_name():
    one = session(max_turns=1)
    asked(one, user("q"))
    with pytest.raises(Refusal, match="the budget of 1 calls is spent"):
        asked(one, user("q"), assistant("ab"), user("r"))
    assert one.end is EpisodeEnd.MAX_TURNS
    small = session(context=20)
    with pytest.raises(Refusal, match="the prompt has 20 tokens, the context 20") as refused:
        asked(small, user("q"))
    assert small.end is EpisodeEnd.CONTEXT_FULL
    assert refused.value.body["error"]["code"] == "context_length_exceeded"


def test_each_call_draws_by_position_member_and_number():
    names: list[tuple[int, ...]] = []
    one = session(lambda utterance: names.append(utterance.name) or "a")
    asked(one, user("q"))
    asked(one, user("q"), assistant("a"), user("r"))
    assert names == [(4, 1, 0), (4, 1, 1)]


def test_json_of_a_stream_is_what_a_whole_answer_says():
    one = session()
    from alignkit.rollout.gateway.wire import ChatAsked, chat_answer, streamed

    call = asked(one, user("q"))
    whole = chat_answer(call, ChatAsked(messages=[user("q")], logprobs=True), ["a", "b", "<|im_end|>"])
    events = [json.loads(line[6:]) for line in streamed(whole, usage=True) if not line.startswith("data: [DONE]")]
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])
    assert text == whole["choices"][0]["message"]["content"] == "ab"
    assert events[-1]["usage"]["completion_tokens"] == 3
    assert [one["logprob"] for one in whole["choices"][0]["logprobs"]["content"]] == [-0.5] * 3
    assert whole["prompt_token_ids"] == list(call.prompt_ids)
