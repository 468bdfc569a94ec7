"""Prompts as token ids: the chat template applied exactly once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from alignkit.data.chat_template import chat_template
from alignkit.data.rendering import continues, eos_id, prompt_text, render_learnt, template_row
from alignkit.data.shown import check_shown
from alignkit.data.tokens import continuation_ids, encode, plain_ids
from alignkit.errors import DataError
from alignkit.recipe.schema import Data
from alignkit.types.task import Message, Task


def render(tokenizer: Any, task: Task, data: Data) -> list[int]:
    """Token ids of the prompt, up to where the policy goes on.

    Messages go through the chat template with its generation prompt, which brings its own special tokens; where the
    last message is the assistant's, the policy goes on within it. Text is encoded as it is, after the BOS token if the
    tokenizer adds one, and never ends with an EOS token.
    Raises DataError when the template is missing, refuses the messages, or does not show one of them.
    """
    if task.messages is None:
        return encode(tokenizer, task.text or "")
    template, row, where = chat_template(tokenizer, data.chat_template_kwargs), template_row(task), f"task {task.id}"
    text = prompt_text(template, task.messages, where=where, **row)
    check_shown(template, task.messages, text, where=where, generation_prompt=not continues(task.messages), **row)
    return plain_ids(tokenizer, text)


def render_completion(tokenizer: Any, task: Task, data: Data) -> list[int]:
    """Token ids of the task's given completion behind its prompt, with the token that ends the turn.

    Raises DataError when there is none, or the template does not write it as the policy would say it.
    """
    return list(render_learnt(tokenizer, replace(task, conversation=False), data).completion)


def render_answer(tokenizer: Any, task: Task, answer: str | Sequence[Message], data: Data) -> list[int]:
    """`render_completion` of one given answer. Text is tokenised on its own: its ids depend on no prompt."""
    if task.messages is None and isinstance(answer, str):
        ids = continuation_ids(tokenizer, answer)
        return ids if ids[-1:] == [eos_id(tokenizer)] else [*ids, eos_id(tokenizer)]
    return render_completion(tokenizer, replace(task, columns={**task.columns, "completion": answer}), data)


def checked_prompts(
    tokenizer: Any, data: Data, tasks: Sequence[Task], *, learnt: bool
) -> tuple[list[list[int]], list[str]]:
    """(token ids of the prompts that can be rendered, what is wrong with the others: one sentence for each problem).

    A template must take and show every message, must not double BOS, and must keep different prompts different.
    learnt: the tasks' completions are rendered, too.
    """
    found: dict[str, list[str]] = defaultdict(list)
    rendered: dict[tuple[int, ...], Task] = {}
    prompts = []
    for task in tasks:
        try:
            prompt = render(tokenizer, task, data)
            prompts.append(prompt)
            if learnt and "turns" not in task.columns:
                render_learnt(tokenizer, task, data)
        except DataError as error:
            problem = str(error).removeprefix(f"task {task.id}: ")
            found[re.split(r"[:(']", problem, maxsplit=1)[0]].append(problem)
            continue
        if tokenizer.bos_token_id is not None and prompt[:2] == [tokenizer.bos_token_id] * 2:
            two = f"the prompt begins with two BOS tokens ({tokenizer.bos_token!r}); take it out of the template"
            found["bos"].append(two)
        twin = rendered.setdefault(tuple(prompt), task)
        if (twin.messages, twin.text) != (task.messages, task.text):
            found["equal"].append(
                f"the prompts of {twin.id} and {task.id} are different and come out equal; the chat template does not "
                "show what they say: mend model.chat_template"
            )
    return prompts, [f"{problems[0]} ({len(problems)} of {len(tasks)} rows)" for problems in found.values()]


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
