"""The examples of docs/extending.md are run as they stand there."""

from __future__ import annotations

import asyncio
import json
import math
import re
import runpy
from pathlib import Path

import pytest
import torch

from alignkit.data.look.spans import runs
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.sources import load_tasks
from alignkit.errors import EngineError
from alignkit.recipe.lookup.find import find, load
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Data
from alignkit.run.check.preflight import load_tokenizer, preflight
from alignkit.run.train.train import run as train
from alignkit.types.batch import pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from alignkit.types.rollout import Request, StopReason
from alignkit.types.task import Task, message_text
from tests.grid import alternatives

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```\w+\n# [^\n:]+: (\S+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def example(tmp_path):
    """Writes an example into a file of its name and gives the path."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.write_text(BLOCKS[name])
        return path

    return write


def test_every_example_is_at_most_40_lines():
    assert len(BLOCKS) == PAGE.count("```python")
    assert {name: len(code.splitlines()) for name, code in BLOCKS.items() if len(code.splitlines()) > 40} == {}


def test_the_reward_says_what_its_self_test_promises(example):
    found = find("rewards", str(example("mentions.py")))
    mentions, cases = load(found), runpy.run_path(str(found.path))["SELF_TEST"]
    for case in cases:
        result = mentions(case.completion, Task(id="0", text="?", reference=case.reference))
        assert (result if isinstance(result, float) else result.fault.kind) == case.expected
    assert [case.expected for case in cases] == [1, 0.5, "gold"]


def test_the_engine_samples_what_its_table_says_and_holds_the_weights_it_was_sent(example):
    code = runpy.run_path(str(example("bigrams.py")))
    # after token 0 come 1 and 2 as 3 to 1; after 1 always 2, which is the stop token
    table = torch.tensor([[-math.inf, math.log(3), 0.0], [-math.inf, -math.inf, 0.0], [0.0, 0.0, 0.0]])
    engine = code["BigramEngine"](table)
    requests = [Request(prompt_ids=(2, 0), seed=seed, max_new_tokens=4, stop_token_ids=(2,)) for seed in range(4000)]
    said = asyncio.run(engine.generate(requests))
    assert {one.token_ids for one in said} == {(1, 2), (2,)}
    assert {one.stop for one in said} == {StopReason.END_OF_TEXT}
    share = sum(one.token_ids == (1, 2) for one in said) / 4000
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 4000)  # 4 standard errors
    assert said == asyncio.run(engine.generate(requests))
    long = next(one for one in said if len(one.token_ids) == 2)
    assert long.logprobs == pytest.approx((math.log(0.75), 0.0))
    assert asyncio.run(engine.score([(0, 1, 2)])) == [pytest.approx([math.log(0.75), 0.0])]

    engine.update([("table", torch.zeros(3, 3))], version=7)
    assert asyncio.run(engine.generate(requests[:1]))[0].policy_version == 7
    assert asyncio.run(engine.score([(0, 1)])) == [[pytest.approx(-math.log(3))]]
    with pytest.raises(EngineError, match=r"got the weights \['other'\], wanted table of shape \(3, 3\)"):
        engine.update([("other", torch.zeros(3, 3))], version=8)
    assert engine.policy_version == 7


def test_the_credit_rule_pays_what_lies_above_the_median_and_trains_by_grpos_loss(example):
    algorithm = load(find("algorithms", str(example("median.py"))))
    config = algorithm.config(type="median")
    rewards = [[0.0, 0.0, 1.0], [2.0, 9.0, 4.0]]  # medians 0 and 4
    items = [
        Item(prompt_ids=(5, group), completion_ids=(7, 8), sampler_logprobs=(0.0, 0.0), group=group, reward=reward)
        for group, paid in enumerate(rewards)
        for reward in paid
    ]
    batch = algorithm.estimate(config, pack(items).validate())
    each = batch.advantages[batch.first_action()]
    assert each.tolist() == [0.0, 0.0, 1.0, -2.0, 5.0, 0.0]
    assert list(alternatives(algorithm.config, BLOCKS["median.py"])) == []  # GRPO's grid is tried with GRPO
    logprobs = torch.zeros(batch.num_tokens, requires_grad=True)
    loss = algorithm.losses["policy"](config, Outputs(logprobs=logprobs, entropy=torch.zeros(batch.num_tokens)), batch)
    assert (loss.total.item(), loss.count) == (-2 * (1.0 - 2.0 + 5.0), 12)  # ratio 1 on two tokens of each
    loss.total.backward()
    assert logprobs.grad[batch.first_action()].tolist() == [0.0, 0.0, -1.0, 2.0, -5.0, 0.0]


POLLS = [
    {"prompt": "1+1=", "first": "2", "second": "3", "first_votes": 5, "second_votes": 1},
    {"prompt": "2+2=", "first": "5", "second": "4", "first_votes": 0, "second_votes": 2},
    {"prompt": "3+3=", "first": "6", "second": "7", "first_votes": 2, "second_votes": 2},
    {"prompt": "4+4=", "first": " ", "second": "8", "first_votes": 1, "second_votes": 2},
]
POLLS_RECIPE = """
seed: 0
model: {scratch: {characters: "0123456789+= ", layers: 1, hidden: 16, heads: 2, context: 16}, dtype: float32}
data: {source: polls.jsonl, chat: false}
algorithm: {type: ./votes.py}
optimizer: {lr: 1e-2}
train: {steps: 8, batch: 2}
checkpoints: {every: null}
health: {dead_steps: 100}
"""


def test_the_source_of_data_tells_what_it_leaves_out_and_trains_towards_the_answer_with_more_votes(example, tmp_path):
    example("votes.py")
    (tmp_path / "polls.jsonl").write_text("\n".join(map(json.dumps, POLLS)))
    (tmp_path / "polls.yaml").write_text(POLLS_RECIPE)
    recipe = read_recipe(tmp_path / "polls.yaml", [f"run={tmp_path / 'run'}"])
    found = preflight(recipe, recipe.stages[0], rows=10).compared
    assert (found.kept, found.left_out) == (2, {"no majority": 1, "an empty completion": 1})
    assert found.lengths == "mean tokens of 4 completions 2.0"
    assert [run.text for one in found.example for run in runs(one.spans) if run.learnt] == ["2<eos>", "3<eos>"]

    kind = load(find("algorithms", str(tmp_path / "votes.py"))).source
    tasks = load_tasks(recipe.stages[0].data, seed=0, beside=tmp_path)
    row_filter = RowFilter(
        tokenizer=load_tokenizer(recipe.model, None), data=recipe.stages[0].data, context=16, unit=kind.unit
    )
    assert [item.side for item in kind.items_of(kind.rows(tasks, row_filter))] == [1, -1, -1, 1]
    assert row_filter.report() == "polls.jsonl: 2 of 4 polls left out, 1 with no majority, 1 with an empty completion"

    assert train(recipe, resume=False)["steps"] == 8
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    margins = [line["pairs/margin"] for line in metrics if "pairs/margin" in line]
    assert margins[0] == 0 < margins[-1]


def test_the_rows_are_the_same_for_the_same_seed_and_others_for_another_split(example):
    def tasks(**said):
        return load_tasks(Data(source=f"{example('sums.py')}:rows", limit=50, **said), seed=3)

    first = tasks()
    assert [task.reference for task in first] == [task.reference for task in tasks()]
    assert [task.reference for task in first] != [task.reference for task in tasks(split="test")]
    for task in first:
        a, b = re.findall(r"\d+", message_text(task.messages[0]))
        assert int(a) + int(b) == int(task.reference) <= 18
