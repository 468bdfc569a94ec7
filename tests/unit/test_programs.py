"""Agent programs as a play: over HTTP, as functions and as commands, whole, failing, and cut at their limits."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from alignkit.errors import ContentError
from alignkit.rollout.gateway.command import command
from alignkit.rollout.gateway.gateway import Access, Gateway
from alignkit.rollout.gateway.programs import program_of
from alignkit.rollout.items import items
from alignkit.types.task import Task
from alignkit.types.turn import EpisodeEnd
from tests.unit.gateway_sessions import asked_over_http, programs, session, user


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
            asks = (
                {"n": 2},
                {"stop": ["x"]},
                {"logit_bias": {"3": 5}},
                {"max_tokens": 0},
                {"messages": 3},
                {"echo": True},
            )
            asks += (
                {"top_logprobs": 3},
                {"functions": [{"name": "f"}]},
                {"echo": False, "best_of": 1, "top_logprobs": 0},
            )
            for more in asks:
                body = {"model": "policy", "messages": [user("q")], "top_p": 0.5, **more}
                answer = await client.post(url, json=body)
                codes.append((answer.status_code, answer.json().get("error", {}).get("code")))
            wrong = await client.post(url, json={}, headers={"Authorization": "Bearer sk-guess"})
            codes.append((wrong.status_code, wrong.json()["error"]["code"]))
            text = await client.post(f"{access.base_url}/completions", json={"prompt": "q", "max_tokens": 1})
            codes.append(text.json()["choices"][0]["text"])
        return 1.0

    programs(program)
    refused = ("n", "stop", "logit_bias", "max_tokens", "body", "echo", "top_logprobs", "functions")
    once = [*((400, name) for name in refused), (200, None)]
    for expected in [*once, (401, "invalid_api_key"), "ab"]:
        assert codes.count(expected) == 2, expected


def test_a_key_is_worth_nothing_after_its_episode():
    import httpx

    async def statuses() -> list[int]:
        gateway = Gateway()
        gateway.start()
        with gateway.open(session()) as old:
            pass
        async with httpx.AsyncClient() as client:
            with gateway.open(session()) as new:
                keys = [{"Authorization": f"Bearer {access.api_key}"} for access in (old, new)]
                asked = [await client.get(f"{new.base_url}/models", headers=headers) for headers in keys]
        await asyncio.to_thread(gateway.close)
        return [answer.status_code for answer in asked]

    assert asyncio.run(statuses()) == [401, 200]


def test_programs_that_are_over_leave_no_port_and_no_thread_behind():
    urls = []

    async def program(task: Task, access: Access) -> float:
        urls.append(access.base_url)
        await asked_over_http(access, [user("q")])
        return 1.0

    before = threading.active_count()
    programs(program)
    assert len(set(urls)) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(urls[0].split(":")[2].split("/")[0])), timeout=1).close()
    assert threading.active_count() <= before


def test_the_engines_failure_is_a_fault_of_the_episode_and_the_program_sees_500():
    async def program(task: Task, access: Access) -> float:
        answer = await asked_over_http(access, [user("q")])
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "the engine failed on this request"
        return 1.0

    first, _ = programs(program, say=lambda _: "ERROR")
    assert first.reward is None
    assert "the engine failed" in first.score.fault.message


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


def test_a_program_that_a_limit_cut_short_is_judged_by_what_it_came_to_and_is_a_fault_where_nothing_judges():
    async def unending(task: Task, access: Access) -> None:
        said: list[Any] = [user("q")]
        while True:
            answer = await asked_over_http(access, said)
            answer.raise_for_status()
            said += [answer.json()["choices"][0]["message"], user("go on")]

    judged, _ = programs(unending, max_turns=2)
    assert (judged.end, judged.score, len(judged.turns), judged.truncated) == (EpisodeEnd.MAX_TURNS, None, 2, True)
    unjudged, _ = programs(unending, max_turns=2, judged=False)
    assert (unjudged.end, unjudged.reward) == (EpisodeEnd.FAULT, None)
    assert "400" in unjudged.score.fault.message


def test_after_its_seconds_no_call_is_answered_and_the_rollout_is_truncated(monkeypatch: pytest.MonkeyPatch):
    seconds, both = [time.monotonic()], asyncio.Barrier(2)
    monkeypatch.setattr("alignkit.rollout.gateway.session.time", SimpleNamespace(monotonic=lambda: seconds[0]))

    async def slow(task: Task, access: Access) -> None:
        await asked_over_http(access, [user("q")])
        await both.wait()
        seconds[0] = time.monotonic() + 60
        late = await asked_over_http(access, [user("r")])
        assert late.json()["error"]["message"] == "the budget of 50 s is spent (environment.max_seconds)"

    first, _ = programs(slow, max_seconds=50)
    assert (first.end, len(first.turns), first.score) == (EpisodeEnd.MAX_SECONDS, 1, None)


def test_a_part_that_no_metric_can_be_called_is_a_fault():
    async def program(task: Task, access: Access) -> dict[str, float]:
        await asked_over_http(access, [user("q")])
        return {"reward": 1.0, "mine/part": 1.0}

    first, _ = programs(program)
    assert "wanted a name without a slash" in first.score.fault.message
