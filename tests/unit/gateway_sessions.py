"""Sessions and programs whose policy says what a script says, letter by letter, so that encoding would merge tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from alignkit.data.turns import Renderer
from alignkit.rollout.gateway.gateway import Access
from alignkit.rollout.gateway.programs import Programs
from alignkit.rollout.gateway.session import Session
from alignkit.rollout.items import items
from alignkit.rollout.play import Prompt, RolloutStart, Speaker, Utterance
from alignkit.types.rollout import Completion, Request, Rollout
from alignkit.types.task import Task
from alignkit.types.turn import EpisodeEnd, StopReason
from tests.unit.test_turns import CHATML, merging_tokenizer

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


def programs(program: Any, say: Say = lambda _: "ab", **options: Any) -> list[Rollout]:
    tokenizer = merging_tokenizer(CHATML)
    given = {"name": "mine", "context": 400, "max_turns": 9, "deadline_s": 20.0}
    play = Programs(program=program, renderer=Renderer(tokenizer=tokenizer, chat=True), **{**given, **options})
    task = Task(id="t", text="two and two?", reference="ab")
    starts = [RolloutStart(prompt=Prompt(task=task, ids=(), position=0), group=0, member=m) for m in (0, 1)]
    return asyncio.run(play.run(starts, speaker(tokenizer, say)))


async def asked_over_http(access: Access, messages: list[Any], **more: Any) -> Any:
    import httpx

    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {access.api_key}"}) as client:
        body = {"model": access.model, "messages": messages, **more}
        return await client.post(f"{access.base_url}/chat/completions", json=body)
