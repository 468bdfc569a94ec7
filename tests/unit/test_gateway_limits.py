"""The gateway's limits hold for programs that ask several things at once, or what no model can read."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import pytest

from alignkit.rollout.gateway.wire import Refusal
from tests.unit.gateway_sessions import asked, assistant, learnt, programs, session, user
from tests.unit.test_reward_isolation import gone, linux

RUN = """
import asyncio, pathlib, sys
from alignkit.rollout.gateway.command import command
from alignkit.rollout.gateway.gateway import Access
from alignkit.types.task import Task
told = pathlib.Path(sys.argv[1])
shell = f"setsid sleep 300 & echo $! $$ > {told}.new; mv {told}.new {told}; sleep 300"
async def main():
    playing = asyncio.create_task(
        command(["sh", "-c", shell])(Task(id="t", text="q"), Access(base_url="x", api_key="k")))
    while not told.is_file():
        await asyncio.sleep(0.02)
    if sys.argv[2] == "over":
        playing.cancel()
    await playing
asyncio.run(main())
"""


def test_of_calls_made_at_once_none_is_over_the_budget_and_each_draws_by_its_own_number():
    one, names = session(max_turns=3), []
    say = one.speaker.sample

    async def slowly(utterances):
        names.append(utterances[0].name)
        await asyncio.sleep(0.01)
        return await say(utterances)

    object.__setattr__(one.speaker, "sample", slowly)

    async def all_at_once():
        return await asyncio.gather(*(one.chat([user("q" * n)], ()) for n in range(1, 9)), return_exceptions=True)

    answers = asyncio.run(all_at_once())
    assert [isinstance(answer, Refusal) for answer in answers] == [False] * 3 + [True] * 5
    assert names == [(4, 1, 0), (4, 1, 1), (4, 1, 2)]


@pytest.mark.parametrize("token", [-1, 10**9])
def test_a_token_that_the_model_does_not_know_is_refused_before_the_engine_sees_it(token):
    one = session()
    with pytest.raises(Refusal, match=f"the prompt has the token id {token}; wanted 0 to"):
        asyncio.run(one.complete([5, token]))
    assert one.recording.calls == []


async def leaving(task, access):
    sys.exit(3)


def test_a_program_that_calls_exit_is_a_fault_of_its_episode_and_not_the_runs_end():
    for one in programs(leaving):
        assert one.score.fault.message == "SystemExit: 3"


@pytest.mark.parametrize("chosen", ["a", "b", "ab"])
def test_of_several_answers_to_one_question_only_the_one_gone_on_from_is_learnt(chosen):
    answers = iter(["a", "b", "ab", "b"])
    one = session(lambda utterance: next(answers))
    for _ in range(3):
        asked(one, user("q"))
    asked(one, user("q"), assistant(chosen), user("r"))
    assert learnt(one) == [f"{chosen}<|im_end|>b<|im_end|>"]


def test_the_last_answer_is_learnt_though_it_was_asked_for_before_and_gone_on_from():
    answers = iter(["a", "ab", "b"])
    one = session(lambda utterance: next(answers))
    asked(one, user("q"))
    asked(one, user("q"), assistant("a"), user("r"))
    asked(one, user("q"))
    assert learnt(one) == ["a<|im_end|>ab<|im_end|>", "b<|im_end|>"]


@linux
@pytest.mark.parametrize("end", ["killed", "over"])
def test_nothing_of_a_command_outlives_its_time_or_the_run_not_even_what_left_its_session(tmp_path, end):
    told = tmp_path / "told"
    run = subprocess.Popen([sys.executable, "-c", RUN, str(told), end], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not told.is_file() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        processes = [int(one) for one in told.read_text().split()]
        if end == "killed":
            run.send_signal(signal.SIGKILL)
        run.wait(60)
        assert (len(processes), gone(processes)) == (2, True)
    finally:
        run.kill()
