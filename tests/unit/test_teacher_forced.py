"""Steps are paid by what they do for the reference's log-prob, as an unbatched forward of each prefix says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.errors import ContentError
from alignkit.models.adapted import base_model
from alignkit.models.load import load_policy, save_pretrained
from alignkit.recipe.schema import Model, Scratch
from alignkit.rewards.learned import teacher_forced
from alignkit.rewards.pool.lift import find_reward
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task
from tests.unit.reward_folders import CHARACTERS, TEMPLATE, answered, bert, turn

SOLUTION = "1+2=3\n\n3+4=7\n\nso 7"
CUE = " is "


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Any, Any, Path]:
    """(model with visible weights, tokenizer, its folder); the model says more than a fresh one would."""
    section = Model(
        scratch=Scratch(characters=CHARACTERS + "\n", layers=2, hidden=32, heads=4, context=64), chat_template=TEMPLATE
    )
    model, tokenizer = load_policy(section, seed=3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5) if weight.ndim == 2 else None
    folder = tmp_path_factory.mktemp("teacher")
    save_pretrained(model, tokenizer, folder)
    return model.eval(), tokenizer, folder


def reward(folder: Path, **options: Any) -> Any:
    return find_reward("teacher_forced", {"path": str(folder), "cue": CUE} | options)


def score(folder: Path, task: Task, *texts: str, **options: Any) -> list[Score]:
    return asyncio.run(reward(folder, **options).score(task, answered(task, *texts)))


def asks(reference: Any = "7", text: str = "1+2+4=?") -> Task:
    return Task(id="t/0", text=text, reference=reference)


@torch.no_grad()
def mean_by_hand(model: Any, tokenizer: Any, before: str, answer: str) -> float:
    """One forward of one text, no packing: each of the answer's tokens is read from the logits before it."""
    context, target = ([*tokenizer(text, add_special_tokens=False)["input_ids"]] for text in (before, answer))
    logits = base_model(model)(input_ids=torch.tensor([context + target])).logits[0]
    logprobs = logits.float().log_softmax(-1)
    said = [logprobs[len(context) + place - 1, token] for place, token in enumerate(target)]
    return float(sum(said) / len(said))


def test_each_step_earns_the_increase_of_the_answers_mean_logprob(made):
    model, tokenizer, folder = made
    [found] = score(folder, asks("7+ 1"), SOLUTION)
    parts = ["", "1+2=3\n\n", "1+2=3\n\n3+4=7\n\n", SOLUTION]
    by_hand = [mean_by_hand(model, tokenizer, f"1+2+4=?{part}{CUE}", "7+ 1") for part in parts]
    assert [step.end for step in found.steps or ()] == [len(part) for part in parts[1:]]
    assert [step.value for step in found.steps or ()] == pytest.approx([b - a for a, b in pairwise(by_hand)], abs=1e-4)
    assert found.value == pytest.approx(by_hand[-1] - by_hand[0], abs=1e-4)
    assert found.value == pytest.approx(sum(step.value for step in found.steps or ()), abs=1e-5)
    assert min(abs(step.value) for step in found.steps or ()) > 5e-3, "steps that change nothing would test nothing"


def test_of_a_worked_reference_only_its_answer_counts(made):
    _, _, folder = made
    [worked], [bare], [number] = (score(folder, asks(gold), SOLUTION) for gold in ("1+2+4 = 7\n#### 7", "7", 7))
    assert worked == bare == number


def test_a_score_does_not_depend_on_its_company_or_on_micro_batches(made, monkeypatch):
    _, _, folder = made
    texts = (SOLUTION, "7", "no idea\n\nso 3 ", "a\n\nb\n\nc\n\nd")
    alone = [score(folder, asks(), text)[0] for text in texts]
    together = score(folder, asks(), *texts)
    monkeypatch.setattr(teacher_forced, "MICRO_BATCH_TOKENS", 80)
    cut = score(folder, asks(), *texts)
    for one, other, third in zip(alone, together, cut, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-5) == pytest.approx(third.value, abs=1e-5)
        values = [step.value for step in one.steps or ()]
        assert values == pytest.approx([step.value for step in other.steps or ()], abs=1e-5)
        assert values == pytest.approx([step.value for step in third.steps or ()], abs=1e-5)


def test_groups_keep_their_own_prompt_and_reference(made):
    _, _, folder = made
    scored = reward(folder).score_groups([(task, answered(task, SOLUTION)) for task in (asks(), asks("8", "what?"))])
    assert scored[0][0].value == pytest.approx(score(folder, asks(), SOLUTION)[0].value, abs=1e-5)
    assert scored[1][0].value == pytest.approx(score(folder, asks("8", "what?"), SOLUTION)[0].value, abs=1e-5)


def test_messages_go_through_the_chat_template_and_earlier_turns_are_read(made):
    model, tokenizer, folder = made
    task = Task(id="t/0", messages=({"role": "user", "content": "1+2"},), reference="3")
    rollout = replace(answered(task, "is 3")[0], turns=(turn("hm", (1,), "go on"), turn("is 3", (1,))))
    [found] = asyncio.run(reward(folder).score(task, [rollout]))
    seen = "<bos>user: 1+2<eos>assistant: hm<eos>user: go on<eos>assistant: "
    before, after = (mean_by_hand(model, tokenizer, f"{seen}{part}{CUE}", "3") for part in ("", "is 3"))
    assert found.value == pytest.approx(after - before, abs=1e-4)


@pytest.mark.parametrize("reference", [None, "", "  ", ["7"], float("nan"), "7!"])
def test_a_reference_that_cannot_be_read_is_the_rows_fault(made, reference):
    _, _, folder = made
    [found] = score(folder, asks(reference), SOLUTION)
    assert found.value is None
    assert found.fault
    assert found.fault.kind is FaultKind.GOLD


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no step"),
        (" \n\n ", "no step"),
        ("3!", "no token for"),
        ("7 " * 27, "7 + 59 tokens, where the model reads 1 and more, 64 together"),
    ],
)
def test_what_cannot_be_read_is_refused_and_the_others_are_scored(made, text, why):
    _, _, folder = made
    bad, good = score(folder, asks(), text, SOLUTION)
    assert bad.value is None
    assert bad.fault
    assert bad.fault.kind is FaultKind.REFUSED
    assert why in bad.fault.message
    assert good.value is not None


def test_the_longest_solution_that_fits_is_scored(made):
    _, _, folder = made
    fits = "7" * (64 - len("1+2+4=?") - len(CUE) - len("7"))
    assert [one.value is None for one in score(folder, asks(), fits, fits + "7")] == [False, True]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"split": "steps"}, "split is 'steps'; wanted blank_line, newline, sentence"),
        ({"dtype": "int8"}, "dtype is 'int8'; wanted float32, bfloat16"),
    ],
)
def test_a_wrong_option_is_one_line(made, options, why):
    with pytest.raises(ContentError, match=why):
        reward(made[2], **options)


def test_an_encoder_is_refused(tmp_path):
    bert(tmp_path / "bert")
    with pytest.raises(ContentError, match="says no words; name a causal language model"):
        reward(tmp_path / "bert")
