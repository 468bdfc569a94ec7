"""The gateway: a program speaks to the policy as to OpenAI, and trains on the very tokens that were sampled."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from alignkit.data.turns import Renderer
from alignkit.errors import ContentError
from alignkit.rollout.gateway.command import command
from alignkit.rollout.gateway.gateway import Access
from alignkit.rollout.gateway.programs import Programs, program_of
from alignkit.rollout.gateway.session import Session
from alignkit.rollout.gateway.wire import Refusal
from alignkit.rollout.items import items
from alignkit.rollout.play import Prompt, RolloutStart, Speaker, Utterance
from alignkit.types.rollout import Completion, Request, Rollout
from alignkit.types.task import Task
from alignkit.types.turn import EpisodeEnd, StopReason
from tests.unit.test_turns import CHATML, FORGETTING, merging_tokenizer

Say = Callable[[Utterance], str]


def speaker(tokenizer: Any, say: Say) -> Speaker:
    """Says letter by letter, so that `ab` is two tokens where encoding makes one; `~` is cut at its length."""

    def completion(utterance: Utterance) -> Completion:
        text = say(utterance)
        if text == "ERROR":
            return Completion(token_ids=(), logprobs=(), stop=StopReason.ERROR, versions=((0, 3),))
        end = [] if text.endswith("~") else [tokenizer.eos_token_id]
        ids = (*map(tokenizer.convert_tokens_to_ids, text.rstrip("~")), *end)
        stop = StopReason.END_OF_TEXT if end else StopReason.LENGTH
        return Completion(token_ids=ids, logprobs=(-0.5,) * len(ids), stop=stop, versions=((0, 3),))

    async def sample(utterances: Sequence[Utterance]) -> list[Completion]:
        return [completion(utterance) for utterance in utterances]

    def request(utterance: Utterance) -> Request:
        return Request(prompt_ids=utterance.ids, seed=0, max_new_tokens=9)

    return Speaker(sample=sample, request=request, seed=1, policy_version=3)


def session(say: Say = lambda utterance: "ab", **options: Any) -> Session:
    tokenizer = merging_tokenizer(options.pop("template", CHATML))
    given = {"name": (4, 1), "context": 400, "max_turns": 9}
    return Session(
        renderer=Renderer(tokenizer=tokenizer, chat=True),
        speaker=speaker(tokenizer, say),
        **{**given, **options},
    )


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def assistant(text: str) -> Any:
    return {"role": "assistant", "content": text}


def asked(one: Session, *messages: Any, tools: Sequence[Any] = ()):
    return asyncio.run(one.chat(messages, tools))


def rollout(one: Session, reward: float = 1.0) -> Rollout:
    from alignkit.rollout.gateway.programs import turns_of
    from alignkit.types.score import Score

    return Rollout(
        task=Task(id="t", text="q"),
        group=0,
        member=0,
        turns=turns_of(one, reward),
        policy_version=3,
        score=Score(value=reward),
        end=EpisodeEnd.DONE,
    )


def text_of(one: Session, ids: Sequence[int]) -> str:
    return one.renderer.tokenizer.decode(list(ids))


def learnt(one: Session, reward: float = 1.0) -> list[str]:
    """What the policy is taught to say, sequence by sequence."""
    told = []
    for item in items(rollout(one, reward), reward=reward):
        action = item.action or [True] * len(item.completion_ids)
        told.append(text_of(one, [token for token, said in zip(item.completion_ids, action, strict=True) if said]))
    return told


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
    assert one.recording.forks == 1
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


# programs, over HTTP


def programs(program: Any, say: Say = lambda _: "ab", **options: Any) -> list[Rollout]:
    tokenizer = merging_tokenizer(CHATML)
    given = {"name": "mine", "context": 400, "max_turns": 9, "deadline_s": 20.0}
    play = Programs(program=program, renderer=Renderer(tokenizer=tokenizer, chat=True), **{**given, **options})
    task = Task(id="t", text="two and two?", reference="ab")
    starts = [RolloutStart(prompt=Prompt(task=task, ids=(), position=0), group=0, member=m) for m in (0, 1)]
    try:
        return asyncio.run(play.run(starts, speaker(tokenizer, say)))
    finally:
        play.gateway.close()


async def asked_over_http(access: Access, messages: list[Any], **more: Any) -> Any:
    import httpx

    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {access.api_key}"}) as client:
        body = {"model": access.model, "messages": messages, **more}
        return await client.post(f"{access.base_url}/chat/completions", json=body)


async def two_turns(task: Task, access: Access) -> dict[str, float]:
    said: list[Any] = [user(task.text)]
    for _ in range(2):
        answer = await asked_over_http(access, said, temperature=0.2)
        said += [answer.json()["choices"][0]["message"], user("go on")]
    return {"reward": 0.5, "success": True}


async def openais_client(task: Task, access: Access) -> dict[str, float]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=access.base_url, api_key=access.api_key) as client:
        said: list[Any] = [user(task.text)]
        for _ in range(2):
            answer = await client.chat.completions.create(model=access.model, messages=said, temperature=0.2)
            said += [answer.choices[0].message.model_dump(exclude_none=True), user("go on")]
        pieces = ""
        stream = await client.chat.completions.create(model=access.model, messages=said, stream=True, logprobs=True)
        async for chunk in stream:
            pieces += chunk.choices[0].delta.content or ""
    assert pieces == "ab"
    return {"reward": 0.5, "success": True}


@pytest.mark.slow
def test_openais_own_client_goes_on_token_by_token_whole_and_streamed():
    for one in programs(openais_client):
        assert len(one.turns) == 3
        [item] = items(one, reward=0.5)
        assert sum(item.action) == 9, "three times a, b and the stop token"


def test_a_program_trains_on_the_tokens_that_were_sampled():
    for one in programs(two_turns):
        assert len(one.turns) == 2
        assert one.score.value == 0.5
        assert one.score.parts["success"] == 1.0
        [item] = items(one, reward=0.5)
        assert sum(item.action) == 6, "twice a, b and the stop token"
        assert set(item.sampler_logprobs) == {0.0, -0.5}
        assert one.end is EpisodeEnd.DONE


CURL = """
import json, os, sys, urllib.request
task = json.load(sys.stdin)
def ask(messages, **more):
    body = json.dumps({"model": os.environ["OPENAI_MODEL"], "messages": messages, **more}).encode()
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body,
        {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["choices"][0]
answer = ask([{"role": "user", "content": task["prompt"]}])
print("a line for people")
print(json.dumps({"reward": float(answer["message"]["content"] == task["reference"])}))
"""


def test_a_command_is_told_the_task_and_says_its_reward_on_its_last_line(tmp_path):
    (tmp_path / "agent.py").write_text(CURL)
    first, second = programs(command([sys.executable, str(tmp_path / "agent.py")]))
    assert (first.score.value, second.score.value) == (1.0, 1.0)
    assert len(first.turns) == 1


async def forever(task: Task, access: Access) -> None:
    await asyncio.sleep(60)


async def raising(task: Task, access: Access) -> None:
    raise OSError("no disk")


async def silent(task: Task, access: Access) -> float:
    return 1.0


async def odd(task: Task, access: Access) -> Any:
    await two_turns(task, access)
    return {"success": 1}


@pytest.mark.parametrize(
    ("program", "kind", "told"),
    [
        (forever, "timeout", "it was not over within 0.3 s"),
        (raising, "crash", "OSError: no disk"),
        (silent, "contract", "it never asked the policy"),
        (odd, "contract", "wanted `reward`"),
        (
            command([sys.executable, "-c", "import sys; print('x', file=sys.stderr); sys.exit(3)"]),
            "crash",
            "status 3: x",
        ),
        (command([sys.executable, "-c", "print('x' * 11_000_000)"]), "crash", "it printed more than 10485760 bytes"),
    ],
)
def test_a_program_that_fails_is_a_fault_with_its_cause_and_no_reward(program, kind, told):
    deadline = 0.3 if program is forever else 20.0
    first, _ = programs(program, deadline_s=deadline)
    assert first.reward is None
    assert first.end is EpisodeEnd.FAULT
    assert first.score.fault.kind == kind
    assert told in first.score.fault.message


def test_what_would_change_the_distribution_is_refused_and_settings_of_the_sampling_are_overruled():
    import httpx

    codes: list[Any] = []

    async def program(task: Task, access: Access) -> float:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {access.api_key}"}) as client:
            url = f"{access.base_url}/chat/completions"
            for more in ({"n": 2}, {"stop": ["x"]}, {"logit_bias": {"3": 5}}, {"max_tokens": 0}, {"messages": 3}, {}):
                body = {"model": "policy", "messages": [user("q")], "top_p": 0.5, **more}
                answer = await client.post(url, json=body)
                codes.append((answer.status_code, answer.json().get("error", {}).get("code")))
            wrong = await client.post(url, json={}, headers={"Authorization": "Bearer sk-guess"})
            codes.append((wrong.status_code, wrong.json()["error"]["code"]))
            text = await client.post(f"{access.base_url}/completions", json={"prompt": "q", "max_tokens": 1})
            codes.append(text.json()["choices"][0]["text"])
        return 1.0

    programs(program)
    once = [(400, "n"), (400, "stop"), (400, "logit_bias"), (400, "max_tokens"), (400, "body"), (200, None)]
    for expected in [*once, (401, "invalid_api_key"), "ab"]:
        assert codes.count(expected) == 2, expected


def test_a_key_is_worth_nothing_after_its_episode():
    import httpx

    kept: list[Access] = []
    seen: list[int] = []

    async def program(task: Task, access: Access) -> float:
        async with httpx.AsyncClient() as client:
            for old in kept[:1]:
                url = f"{old.base_url}/models"
                seen.append((await client.get(url, headers={"Authorization": f"Bearer {old.api_key}"})).status_code)
            kept.append(access)
            url = f"{access.base_url}/chat/completions"
            headers = {"Authorization": f"Bearer {access.api_key}"}
            await client.post(url, json={"messages": [user("q")]}, headers=headers)
        return 1.0

    tokenizer = merging_tokenizer(CHATML)
    renderer = Renderer(tokenizer=tokenizer, chat=True)
    play = Programs(program=program, name="mine", renderer=renderer, context=400, max_turns=9, deadline_s=20.0)
    start = RolloutStart(prompt=Prompt(task=Task(id="t", text="q"), ids=(), position=0), group=0, member=0)
    for _ in range(2):
        asyncio.run(play.run([start], speaker(tokenizer, lambda _: "a")))
    play.gateway.close()
    assert seen == [401]


def test_the_engines_failure_is_a_fault_of_the_episode_and_the_program_sees_500():
    async def program(task: Task, access: Access) -> float:
        answer = await asked_over_http(access, [user("q")])
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "the engine failed on this request"
        return 1.0

    first, _ = programs(program, say=lambda _: "ERROR")
    assert first.reward is None
    assert "the engine failed" in first.score.fault.message


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


def test_a_reward_that_nobody_says_is_a_fault_where_no_rewards_judge():
    async def program(task: Task, access: Access) -> None:
        await asked_over_http(access, [user("q")])

    unjudged, _ = programs(program, judged=False)
    assert unjudged.reward is None
    assert "the recipe has no rewards" in unjudged.score.fault.message
    judged, _ = programs(program)
    assert judged.score is None, "the recipe's rewards will say"
    assert judged.text == "ab"


def test_programs_of_a_recipe_are_found_beside_it_and_a_plain_function_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("async def good(task, access): ...\ndef plain(task, access): ...\n")
    assert program_of("./mine.py:good", tmp_path).__name__ == "good"
    with pytest.raises(ContentError, match="no async function; write `async def`"):
        program_of("./mine.py:plain", tmp_path)
    with pytest.raises(ContentError, match="none"):
        program_of("./mine.py:none", tmp_path)
