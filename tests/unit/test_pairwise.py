"""The model that reads two answers at once: both orders in training, both against the reference when it scores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from alignkit.data.kinds.paired_preference import Pair
from alignkit.data.kinds.pairwise import make_pairwise, pairwise_items
from alignkit.data.offline.row_filter import RowFilter
from alignkit.errors import DataError
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.read import load_algorithm
from alignkit.recipe.schema import Data
from alignkit.rewards.learned.reward_model import RewardModel
from alignkit.types.batch import Batch, pack
from alignkit.types.outputs import Outputs
from alignkit.types.score import FaultKind
from alignkit.types.task import Task
from tests.unit.reward_folders import answered, by_the_book, character_model, saved, text_task

TASK = Task(id="1", text="7")
PAIR = Pair(task=TASK, prompt=(7,), chosen=(1, 2), rejected=(3,))


def made() -> tuple[Any, Any]:
    algorithm = load_algorithm("pairwise")
    return algorithm, algorithm.config(type="pairwise")


def duel(first_chosen: float, first_rejected: float) -> tuple[Batch, Outputs]:
    """One pair and the logits that its first answer is the better, with the chosen and with the rejected one first."""
    batch = pack(pairwise_items(PAIR, 0))
    values = torch.full((batch.num_tokens, 1), 99.0)
    for sequence, side in enumerate(batch.side.tolist()):
        values[batch.last_token()[sequence]] = first_rejected if side == 1 else first_chosen
    return batch, Outputs(values=values)


def test_a_pair_is_read_in_both_orders_and_the_second_answer_is_the_completion():
    items = pairwise_items(PAIR, 4)
    assert [(tuple(item.prompt_ids), tuple(item.completion_ids)) for item in items] == [
        ((7, 3), (1, 2)),
        ((7, 1, 2), (3,)),
    ]
    assert [item.side for item in items] == [1, -1]
    assert [(item.group, item.member) for item in items] == [(4, 0), (4, 1)]


def test_the_loss_of_both_orders_by_hand():
    algorithm, config = made()
    batch, outputs = duel(1.0, -2.0)
    loss = algorithm.losses["reward"](config, outputs, batch)
    assert loss.total.item() == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2)
    assert loss.count == 1
    assert loss.metrics["pairs/accuracy"].value == 1


def test_a_liking_for_the_first_place_cancels_where_it_is_judged():
    algorithm, config = made()
    for liking in (0.0, 5.0, -3.0):
        batch, outputs = duel(1.0 + liking, -2.0 + liking)
        assert algorithm.judge(config, outputs, batch).value.tolist() == pytest.approx([1.5, -1.5])


def test_pairs_too_long_to_be_read_together_are_left_out():
    sides = [("34", "5"), ("3456", "789")]
    tasks = [Task(id=one, text="12", columns={"chosen": one, "rejected": other}) for one, other in sides]
    tokenizer = character_tokenizer("0123456789", context=9)
    row_filter = RowFilter(tokenizer=tokenizer, data=Data(source="x", chat=False), context=9, unit="pairs")
    prompts = [(task, [1, 2]) for task in tasks]
    assert [pair.task.id for pair in make_pairwise(prompts, row_filter)] == ["34"]
    assert "1 of 2 pairs left out, 1 with two completions too long to be read together" in (row_filter.report() or "")
    with pytest.raises(DataError, match="two completions too long"):
        make_pairwise(prompts[1:], row_filter)


def test_a_score_is_the_lead_over_the_reference_in_log_odds(tmp_path):
    model, tokenizer = character_model()
    folder = saved(model, tokenizer, tmp_path / "reward", algorithm={"type": "pairwise"})
    task = replace(text_task("1+2="), reference="3")
    texts = ("3", "4", "five")
    [scores] = RewardModel.load(folder).score([(task, answered(task, *texts))], name="r")

    def ids(*answers: str) -> list[int]:
        end = tokenizer.eos_token_id
        return tokenizer("1+2=")["input_ids"] + [i for one in answers for i in (*tokenizer(one)["input_ids"], end)]

    wanted = [(by_the_book(model, ids(text, "3")) - by_the_book(model, ids("3", text))) / 2 for text in texts]
    assert [score.value for score in scores] == pytest.approx(wanted, abs=1e-6)
    assert wanted[0] == 0 != pytest.approx(wanted[1], abs=1e-3)


def test_without_a_reference_or_room_for_it_there_is_no_score(tmp_path):
    folder = saved(*character_model(context=24), tmp_path / "reward", algorithm={"type": "pairwise"})
    model, bare, long = RewardModel.load(folder), text_task("1+2="), "abcdefghijkl"
    faults = []
    for task in (bare, replace(bare, reference=long)):
        [[score]] = model.score([(task, answered(task, long))], name="r")
        assert score.value is None
        assert score.fault is not None
        faults.append((score.fault.kind, score.fault.message))
    assert faults[0] == (FaultKind.GOLD, "there is no reference answer to compare with: see data.columns")
    assert faults[1][0] == FaultKind.REFUSED
    assert "4 + 13 + 13 tokens" in faults[1][1]
