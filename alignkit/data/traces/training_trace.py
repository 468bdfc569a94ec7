"""OpenEnv's TrainingTrace, schema version 1: rollouts token by token, for trainers elsewhere, and theirs for us."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.data.traces.recording import Call, Recording
from alignkit.errors import DataError
from alignkit.types.item import Item
from alignkit.types.rollout import Completion, Rollout
from alignkit.types.turn import StopReason

VERSION = 1
WANTED = ("node_id", "prompt_token_ids", "completion_token_ids", "per_token_logps", "loss_mask")
SHOWN = 40  # characters


def is_trace(turns: Any) -> bool:
    """Whether a row's column `turns` is that of a TrainingTrace, whole or not, and not of a played game."""
    return isinstance(turns, list) and any(isinstance(turn, Mapping) and {*WANTED} & turn.keys() for turn in turns)


def to_training_trace(rollout: Rollout) -> dict[str, Any]:
    """The rollout's turns as a TrainingTrace: of each the exact prompt, what was sampled, log-probs and loss mask.

    The mask is 0 over the prompt and 1 over what the policy sampled. A trace knows no rewards: they stand beside it.
    """
    return {
        "schema_version": VERSION,
        "turns": [
            {
                "node_id": f"{rollout.task.id}/{rollout.member}/{number}",
                "prompt_token_ids": list(turn.prompt_ids),
                "completion_token_ids": list(turn.completion_ids),
                "per_token_logps": list(turn.sampler_logprobs),
                "loss_mask": [0] * len(turn.prompt_ids) + [1] * len(turn.completion_ids),
                "request": {},
                "response": {"choices": [{"message": {"role": "assistant", "content": turn.text[turn.opened :]}}]},
                "metadata": {"policy_version": rollout.policy_version, "stop": turn.stop.value},
            }
            for number, turn in enumerate(rollout.turns)
        ],
    }


def from_training_trace(trace: Any, *, where: str, group: int = 0, member: int = 0, reward: float = 0.0) -> list[Item]:
    """What can be learnt from a TrainingTrace: a sequence for each chain of calls that go on from one another.

    Every call that is not masked out is learnt once, by the very tokens that were sampled; nothing is tokenised. Tokens
    with a 0 in the mask are context. Raises DataError, which begins with `where` and names the turn, for what is no
    such trace: other versions, lists of unequal lengths, log-probs above 0, masks over prompts, ids that repeat.
    """
    turns = _turns(trace, where)
    recording, masks = Recording(), []
    for number, turn in enumerate(turns):
        masks.append(_mask(turn, f"{where}: turn {number}"))
        ids, logprobs = tuple(turn["completion_token_ids"]), tuple(map(float, turn["per_token_logps"]))
        done = Completion(token_ids=ids, logprobs=logprobs, stop=StopReason.END_OF_TEXT, versions=((0, -1),))
        recording.add(
            prompt_ids=tuple(turn["prompt_token_ids"]),
            completion=done,
            messages=(),
            tools=(),
            answer={"role": "assistant", "content": ""},
            text="",
        )
    items = [
        _item(chain, masks, group=group, member=member, reward=reward) for chain in recording.chains(with_retried=True)
    ]
    return [item for item in items if any(item.action or ())]


def check_tokens(trace: Mapping[str, Any], tokenizer: Any, *, where: str) -> None:
    """Raises DataError, which names the turn, for a trace of another tokenizer, where that can be told: a token id is
    beyond the vocabulary, or no word of what was answered is in what the sampled ids say. trace: a whole one."""
    known = len(tokenizer)
    for number, turn in enumerate(trace["turns"]):
        largest = max(*turn["prompt_token_ids"], *turn["completion_token_ids"])
        words, said = _answer(turn).split(), tokenizer.decode(turn["completion_token_ids"])
        problem = None
        if largest >= known:
            problem = f"has the token id {largest}, and the tokenizer knows 0 to {known - 1}"
        elif words and not any(word in said for word in words):
            problem = f"answers {' '.join(words)[:SHOWN]!r}, and its ids say {said[:SHOWN]!r}"
        if problem:
            raise DataError(
                f"{where}: turn {number} {problem}: another tokenizer's trace; name its model (model.path, --model)"
            )


def _answer(turn: Mapping[str, Any]) -> str:
    """What the turn's response says; "" where it is no chat completion with words."""
    try:
        return str(turn["response"]["choices"][0]["message"]["content"] or "")
    except (LookupError, TypeError):
        return ""


def _item(chain: Sequence[Call], masks: Sequence[Sequence[bool]], *, group: int, member: int, reward: float) -> Item:
    ids: list[int] = list(chain[0].prompt_ids)
    start = len(ids)
    action: list[bool] = []
    logprobs: list[float] = []
    turn: list[int] = []
    for place, call in enumerate(chain):
        seen, said = call.prompt_ids[len(ids) :], call.completion.token_ids
        ids += [*seen, *said]
        action += [*[False] * len(seen), *masks[call.number]]
        logprobs += [*[0.0] * len(seen), *call.completion.logprobs]
        turn += [place] * (len(seen) + len(said))
    return Item(
        prompt_ids=chain[0].prompt_ids,
        completion_ids=ids[start:],
        action=action,
        sampler_logprobs=logprobs,
        group=group,
        member=member,
        reward=reward,
        turn=turn,
    )


def _turns(trace: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(trace, Mapping) or trace.get("schema_version", VERSION) != VERSION:
        got = trace.get("schema_version") if isinstance(trace, Mapping) else type(trace).__name__
        raise DataError(f"{where}: no TrainingTrace of schema version {VERSION}; got {got!r}: export it anew")
    turns = trace.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise DataError(f"{where}: `turns` is no list of turns")
    for number, turn in enumerate(turns):
        missing = [name for name in WANTED if name not in turn]
        if missing:
            raise DataError(
                f"{where}: turn {number} has no {missing[0]}; it was captured without tokens, sample it anew"
            )
    names = [turn["node_id"] for turn in turns]
    if len(set(names)) != len(names):
        raise DataError(f"{where}: two turns are called {max(names, key=names.count)!r}; each call counts once")
    return turns


def _mask(turn: Mapping[str, Any], place: str) -> list[bool]:
    """Which tokens of the completion are learnt; raises DataError for lists that do not belong together."""
    prompt, said = turn["prompt_token_ids"], turn["completion_token_ids"]
    logprobs, mask = turn["per_token_logps"], turn["loss_mask"]
    for name, ids in (("prompt_token_ids", prompt), ("completion_token_ids", said)):
        if not isinstance(ids, list) or not all(type(one) is int and one >= 0 for one in ids) or not ids:
            raise DataError(f"{place}: {name} is no list of token ids; wanted at least one, each 0 or more")
    if len(logprobs) != len(said):
        raise DataError(f"{place}: {len(said)} sampled tokens and {len(logprobs)} log-probs; wanted equally many")
    if not all(isinstance(one, int | float) and math.isfinite(one) and one <= 1e-6 for one in logprobs):
        raise DataError(f"{place}: a log-prob is above 0 or no number")
    if len(mask) != len(prompt) + len(said) or not all(one in (0, 1) for one in mask):
        raise DataError(f"{place}: the loss mask has {len(mask)} entries; wanted {len(prompt) + len(said)} of 0 or 1")
    if any(mask[: len(prompt)]):
        raise DataError(f"{place}: the loss mask counts tokens of the prompt; only what was sampled can be learnt")
    return [bool(one) for one in mask[len(prompt) :]]
