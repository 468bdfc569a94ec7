"""The gateway's limits hold for programs that ask several things at once, or what no model can read."""

from __future__ import annotations

import asyncio
import sys

import pytest

from alignkit.rollout.gateway.wire import Refusal
from tests.unit.test_gateway import programs, session, user


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
