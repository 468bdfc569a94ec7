"""Tasks as token ids: the chat template applied exactly once, completions with a stop token that gets trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from alignkit.errors import DataError
from alignkit.recipe.schema import Data
from alignkit.types.task import Message, Task


def render(tokenizer: Any, task: Task, data: Data) -> list[int]:
    """Token ids of the prompt, up to where the policy goes on.

    Messages go through the chat template with its generation prompt, which brings its own special tokens. Text is
    encoded as it is, after the BOS token if the tokenizer adds one, and never ends with an EOS token.
    Raises DataError when the template is missing or refuses the messages.
    """
    if task.messages is None:
        return encode(tokenizer, task.text or "")
    return _apply_template(tokenizer, task, task.messages, generation_prompt=True)


def render_completion(tokenizer: Any, task: Task, data: Data) -> list[int]:
    """Token ids of the task's given completion, with the stop token at the end: what supervised training learns.

    They are what follows the prompt's ids when prompt and completion are tokenised together, cut after the token that
    ends the turn (EOS is appended where the template or the text has none).
    Raises DataError when there is no completion, or when the prompt's ids are not a prefix of the whole.
    """
    completion = task.columns.get("completion")
    if completion is None:
        raise DataError(f"task {task.id}: no column 'completion' to learn; name one with data.columns")
    prompt = render(tokenizer, task, data)
    if task.messages is None:
        if not isinstance(completion, str):
            raise DataError(f"task {task.id}: the completion is a list of messages; set data.chat to true")
        whole = encode(tokenizer, (task.text or "") + completion)
    else:
        answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        whole = _apply_template(tokenizer, task, [*task.messages, *answer], generation_prompt=False)
    if whole[: len(prompt)] != prompt:
        raise DataError(_not_a_prefix(tokenizer, task, prompt, whole))
    return _with_stop(tokenizer, whole[len(prompt) :])


def render_answer(tokenizer: Any, task: Task, answer: str | Sequence[Message], data: Data) -> list[int]:
    """Token ids of one given answer, with the stop token at the end, to be put behind the prompt's ids.

    Text is tokenised on its own, so that its ids depend on no prompt; messages are what the chat template puts behind
    the prompt. Raises DataError when the template does not keep the prompt's ids.
    """
    if task.messages is not None:
        return render_completion(tokenizer, replace(task, columns={**task.columns, "completion": answer}), data)
    if not isinstance(answer, str):
        raise DataError(f"task {task.id}: an answer is a list of messages; set data.chat to true")
    return _with_stop(tokenizer, plain_ids(tokenizer, answer))


def template_checks(tokenizer: Any, data: Data, tasks: Sequence[Task]) -> list[str]:
    """What is wrong with the chat template for these tasks, one sentence each; empty when all is well.

    Checks that BOS is not doubled, that prompts are prefixes of prompt and answer, and that the token which ends an
    answer is the tokenizer's EOS, so that training on it teaches the policy to stop where sampling stops.
    """
    found: dict[str, list[str]] = {}
    for task in tasks:
        for problem in _problems(tokenizer, data, task):
            found.setdefault(problem.partition(":")[0], []).append(problem)
    return [f"{problems[0]} ({len(problems)} of {len(tasks)} rows)" for problems in found.values()]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Counts of `fit_prompts`. longest: tokens of the longest prompt before anything was cut."""

    given: int
    filtered: int
    truncated: int
    longest: int


def fit_prompts(
    prompts: Sequence[tuple[Task, list[int]]], max_prompt_tokens: int, policy: Literal["error", "filter", "truncate"]
) -> tuple[list[tuple[Task, list[int]]], Fit]:
    """The (task, token ids) that fit, in order, and the counts for the log.

    policy: "error" raises DataError for a longer prompt, "filter" drops it, "truncate" keeps its last tokens.
    """
    longest = max((len(ids) for _, ids in prompts), default=0)
    num_long = sum(len(ids) > max_prompt_tokens for _, ids in prompts)
    if num_long and policy == "error":
        first = next(task.id for task, ids in prompts if len(ids) > max_prompt_tokens)
        raise DataError(
            f"{num_long} of {len(prompts)} prompts have more than {max_prompt_tokens} tokens (the longest {longest}; "
            f"the first is task {first}); raise data.max_prompt_tokens or set data.long_prompts to filter or truncate"
        )
    filtered, truncated = (num_long, 0) if policy == "filter" else (0, num_long)
    kept = [
        (task, ids[-max_prompt_tokens:])
        for task, ids in prompts
        if policy == "truncate" or len(ids) <= max_prompt_tokens
    ]
    return kept, Fit(given=len(prompts), filtered=filtered, truncated=truncated, longest=longest)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text at the start of a context: after the BOS token if the tokenizer adds one, no EOS."""
    plain = plain_ids(tokenizer, text)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and list(tokenizer(text, verbose=False)["input_ids"])[:1] == [bos] and plain[:1] != [bos]
    return [bos, *plain] if adds_bos else plain


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text on its own, without special tokens. Of any length: what does not fit is counted later."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _apply_template(tokenizer: Any, task: Task, messages: Sequence[Message], *, generation_prompt: bool) -> list[int]:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template; set model.chat_template, or data.chat to false")
    try:
        return list(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=task.columns.get("tools"),
                add_generation_prompt=generation_prompt,
                tokenize=True,
                return_dict=False,
                tokenizer_kwargs={"verbose": False},
            )
        )
    except TemplateError as error:
        raise DataError(f"task {task.id}: the chat template refuses its messages: {error}") from error


def _with_stop(tokenizer: Any, completion: list[int]) -> list[int]:
    """Cut after the last special token (ChatML adds a line break behind it that is never sampled), else EOS added."""
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no EOS token, so nothing could teach the policy to stop")
    special = set(tokenizer.all_special_ids) - ({tokenizer.unk_token_id} - {tokenizer.eos_token_id})
    last = next((place for place in reversed(range(len(completion))) if completion[place] in special), None)
    return [*completion, tokenizer.eos_token_id] if last is None else completion[: last + 1]


def _not_a_prefix(tokenizer: Any, task: Task, prompt: list[int], whole: list[int]) -> str:
    same = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    start = max(0, same - 5)
    alone, together = (tokenizer.decode(ids[start : same + 10]) for ids in (prompt, whole))
    return (
        f"task {task.id}: the prompt's tokens change when the completion follows: {alone!r} alone, {together!r} with "
        "it; use a template that keeps the prompt, or end the prompt where a token ends"
    )


def _problems(tokenizer: Any, data: Data, task: Task) -> list[str]:
    answered = task
    if task.columns.get("completion") is None:
        answered = replace(task, columns={**task.columns, "completion": "ok"})
    try:
        prompt = render(tokenizer, task, data)
        completion = render_completion(tokenizer, answered, data)
    except DataError as error:
        return [str(error).removeprefix(f"task {task.id}: ")]
    problems = []
    if tokenizer.bos_token_id is not None and prompt[:2] == [tokenizer.bos_token_id] * 2:
        problems.append(f"the prompt begins with two BOS tokens ({tokenizer.bos_token!r}); take it out of the template")
    if completion[-1] != tokenizer.eos_token_id:
        last = tokenizer.decode(completion[-1:])
        problems.append(
            f"answers end with {last!r}, but sampling stops at {tokenizer.eos_token!r}; make {last!r} the EOS token"
        )
    return problems
