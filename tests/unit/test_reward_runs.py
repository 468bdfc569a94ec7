"""Reward models in recipes: what `check` says, whole small runs, cut-off runs, and what is done with their folders."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file

from alignkit.cli import main
from alignkit.errors import DataError, RecipeError
from alignkit.models.adapted import base_model
from alignkit.models.load import VALUE_HEAD, save_pretrained
from alignkit.parallel.group import Group
from alignkit.recipe.read import read_recipe
from alignkit.rewards.learned.reward_model import RewardModel
from alignkit.rewards.pool.lift import find_reward
from alignkit.rewards.serve.batcher import Batcher, BatchReward
from alignkit.rewards.serve.wire import group_to_wire
from alignkit.run.check.preflight import preflight
from alignkit.run.serve.serve import _fingerprint
from alignkit.run.train.build import build_critic, build_policy
from alignkit.run.train.train import run as train
from tests.resume.runs import fingerprint
from tests.unit.loopback import TOKEN, served
from tests.unit.reward_folders import answered, bert, by_the_book, character_model, saved, text_task

RECIPE = """
seed: 3
model:
  scratch: {characters: "0123456789+=", layers: 1, hidden: 32, heads: 2, context: 12}
  dtype: float32
data: {source: rows.jsonl, chat: false, holdout: 4}
algorithm: {type: bradley_terry}
optimizer: {lr: 3e-3}
train: {steps: 6, batch: 4}
evaluation: {every: 3}
checkpoints: {every: 1}
health: {dead_steps: 100}
"""
POLICY = """
seed: 3
model:
  scratch: {characters: "0123456789+=", layers: 1, hidden: 32, heads: 2, context: 12}
  dtype: float32
data: {source: "generator:arithmetic", options: {style: characters}, chat: false, max_prompt_tokens: 6}
rewards: [{name: learned, options: {path: REWARD}}, {name: exact_match, weight: 0}]
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 2, canary_tolerance: 0.001, reward_workers: 1}
algorithm: {type: grpo}
optimizer: {lr: 1e-3}
train: {steps: 2}
checkpoints: {every: null}
health: {dead_steps: 100}
"""


def row(number: int) -> dict:
    return {"prompt": f"{number}+1=", "chosen": str(number + 1), "rejected": str(number)}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(16)))
    path = tmp_path / "reward.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reward model without training, of the vocabulary of the recipes here."""
    return saved(*character_model(context=24), tmp_path / "reward-model")


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def alignkit(capsys):
    """Runs one command in this process that must succeed: its standard output."""

    def run(*arguments: str) -> str:
        code = main.run(arguments)
        told = capsys.readouterr()
        assert code == 0, told.err
        return told.out

    return run


def test_a_run_learns_the_order_of_its_pairs_and_is_evaluated_on_those_held_out(recipe, alignkit):
    run = recipe.parent / "run"
    train(
        read_recipe(
            recipe, [f"run={run}", "train.steps=80", "optimizer.lr=1e-2", "data.holdout=4", "evaluation.every=80"]
        ),
        resume=False,
    )
    steps = metrics(run)
    assert steps[0]["loss/reward"] == pytest.approx(math.log(2), abs=0.1)
    assert sum(step["loss/reward"] for step in steps[-5:]) / 5 < 0.5
    assert sum(step["pairs/accuracy"] for step in steps[-5:]) / 5 > 0.8
    assert "policy/entropy" not in steps[-1], "a reward model says no words"
    evaluations = sorted((run / "evaluations").glob("*.json"), key=lambda file: int(file.stem.split("-")[-1]))
    last = json.loads(evaluations[-1].read_text())
    model = RewardModel.load(run / "final")
    tasks = {f"rows.jsonl/{number}": row(number) for number in range(16)}
    assert len(last["results"]) == 4
    for result in last["results"]:
        pair = tasks[result["task_id"]]
        task = text_task(pair["prompt"])
        [[chosen, rejected]] = model.score([(task, answered(task, pair["chosen"], pair["rejected"]))], name="r")
        assert result["reward"] == pytest.approx(chosen.value - rejected.value, abs=1e-5)
        assert result["correct"] == (1.0 if chosen.value > rejected.value else 0.0)
    (run / "report.html").unlink(missing_ok=True)
    alignkit("report", str(run))
    assert "pairs/accuracy" in (run / "report.html").read_text()


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_that_is_cut_off_and_resumed_is_the_same_run_with_the_same_folder(lora, recipe, tmp_path):
    """It goes on at step 3 of 6, at which it is also evaluated."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    more = ["model.lora={rank: 2}"] if lora else []
    train(read_recipe(recipe, [f"run={whole}", *more]), resume=False)
    train(read_recipe(recipe, [f"run={cut}", "train.steps=3", *more]), resume=False)
    train(read_recipe(recipe, [f"run={cut}", *more]), resume=True)
    assert fingerprint(cut) == fingerprint(whole)
    for file in ("reward.json", f"{VALUE_HEAD}.safetensors"):
        assert (cut / "final" / file).read_bytes() == (whole / "final" / file).read_bytes()
    head = load_file(whole / "final" / f"{VALUE_HEAD}.safetensors")
    assert head["weight"].abs().max() > 0.012, "the head was trained"


def test_an_encoder_can_be_made_a_reward_model_and_never_a_policy(recipe, tmp_path):
    bert(tmp_path / "bert")
    words = [
        {"prompt": "what is", "chosen": "one two", "rejected": "three"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in words * 4))
    model = ["model.scratch=null", "model.path=bert", "data.holdout=0", "evaluation=null"]
    run = tmp_path / "run"
    train(read_recipe(recipe, [f"run={run}", "train.steps=30", *model]), resume=False)
    assert metrics(run)[-1]["pairs/accuracy"] == 1
    scorer, task = RewardModel.load(run / "final"), text_task("what is")
    [[good, bad]] = scorer.score([(task, answered(task, "one two", "three"))], name="r")
    assert good.value > bad.value
    assert not hasattr(base_model(scorer.forward.model).encoder, "cls"), "the folder is that of the encoder"
    with pytest.raises(RecipeError, match=r"model\.path: an encoder reads and cannot answer"):
        train(read_recipe(recipe, [f"run={tmp_path / 'policy'}", *model, "algorithm={type: dpo}"]), resume=False)


def test_a_reward_model_can_only_come_last(recipe):
    text = recipe.read_text().replace(
        "algorithm: {type: bradley_terry}\noptimizer: {lr: 3e-3}\ntrain: {steps: 6, batch: 4}\n", ""
    )
    stages = """
stages:
  - {name: reward, algorithm: {type: bradley_terry}, optimizer: {lr: 1e-3}, train: {steps: 1, batch: 2}}
  - {name: more, algorithm: {type: dpo}, optimizer: {lr: 1e-3}, train: {steps: 1, batch: 2}}
"""
    recipe.write_text(text + stages)
    with pytest.raises(RecipeError, match=r"stages\.0\.algorithm: makes a reward model, with which a recipe ends"):
        read_recipe(recipe)
    swapped = text + "stages:\n" + "\n".join(reversed(stages.strip().splitlines()[1:])) + "\n"
    recipe.write_text(swapped)
    run = recipe.parent / "run"
    assert train(read_recipe(recipe, [f"run={run}"]), resume=False)["steps"] == 2
    assert (run / "final" / "reward.json").is_file()


def test_an_implied_reward_is_read_from_anywhere_with_the_model_it_is_measured_from(recipe, tmp_path, monkeypatch):
    rows = [{"prompt": "1+1=", "completion": str(n), "rating": n == 2} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    changes = [
        "algorithm={type: implicit, pattern: '[+]'}",
        "data.holdout=0",
        "evaluation=null",
        f"run={tmp_path / 'run'}",
    ]
    train(read_recipe(recipe, changes), resume=False)
    shutil.move(tmp_path / "run" / "final", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    task = text_task("1+1=")
    [[score]] = RewardModel.load(tmp_path / "elsewhere").score([(task, answered(task, "2"))], name="r")
    assert abs(score.value) > 1e-4, "it has moved from the model that it began as"
    [[stepped]] = RewardModel.load(tmp_path / "elsewhere").score([(task, answered(task, "1+2"))], name="r")
    assert [step.end for step in stepped.steps] == [2, 3], "a step ends after each match, and at the end"
    assert all(abs(step.value) > 1e-4 for step in stepped.steps), "the rest of the value is the stop token's"
    shutil.copy(tmp_path / "elsewhere" / "reference" / "model.safetensors", tmp_path / "elsewhere")
    [[zero]] = RewardModel.load(tmp_path / "elsewhere").score([(task, answered(task, "2"))], name="r")
    assert zero.value == pytest.approx(0, abs=1e-6), "the model itself is worth nothing"
    assert [step.value for step in zero.steps] == pytest.approx([0], abs=1e-6)
    model, tokenizer = character_model(context=24)
    save_pretrained(model, tokenizer, tmp_path / "base")
    train(read_recipe(recipe, [*changes, "model.scratch=null", "model.path=base"]), resume=False)
    monkeypatch.chdir("/")
    scorer = RewardModel.load(tmp_path / "run" / "final")
    [[score]] = scorer.score([(task, answered(task, "2"))], name="r")
    assert score.value is not None
    assert score.value != 0


@pytest.mark.parametrize(
    ("source", "rows", "left_out"),
    [
        (
            "plackett_luce",
            [
                {"completions": ["1", "2"], "scores": [1, 2]},
                {"completions": ["1"], "scores": [1]},
                {"completions": ["1", "2"], "scores": [1, float("nan")]},
                {"completions": ["1", " "], "scores": [1, 2]},
            ],
            {"fewer than two completions": 1, "a score that is not a finite number": 1, "an empty completion": 1},
        ),
        (
            "process",
            [
                {"steps": ["1", "2"], "labels": [1, 0.5]},
                {"steps": ["1", " "], "labels": [1, 0]},
                {"steps": ["1"], "labels": [1.5]},
                {"steps": ["1"], "labels": [float("nan")]},
                {"steps": [], "labels": []},
            ],
            {"an empty step": 2, "a step's label that is not between 0 and 1": 2},
        ),
    ],
)
def test_check_counts_the_rows_that_cannot_be_learnt_from(source, rows, left_out, recipe):
    (recipe.parent / "rows.jsonl").write_text("".join(json.dumps({"prompt": "1+1=", **each}) + "\n" for each in rows))
    resolved = read_recipe(recipe, [f"algorithm={{type: {source}}}", "data.holdout=0", "evaluation=null"])
    found = preflight(resolved, resolved.stages[0], rows=50)
    assert found.problems == []
    assert (found.compared.kept, found.compared.left_out) == (1, left_out)


@pytest.mark.parametrize(
    ("source", "names"), [("plackett_luce", ("completions", "scores")), ("process", ("steps", "labels"))]
)
def test_lists_of_unequal_length_are_an_error_that_names_the_row(source, names, recipe):
    first, second = names
    rows = [{"prompt": "1+1=", first: ["1", "2"], second: [1, 0]}, {"prompt": "2+1=", first: ["1", "2"], second: [1]}]
    (recipe.parent / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    resolved = read_recipe(
        recipe, [f"algorithm={{type: {source}}}", "data.holdout=0", "evaluation=null", f"run={recipe.parent / 'run'}"]
    )
    sentence = f"task rows.jsonl/1: {first} and {second} must be two lists of one length"
    assert any(sentence in problem for problem in preflight(resolved, resolved.stages[0], rows=50).problems)
    with pytest.raises(DataError, match=sentence):
        train(resolved, resume=False)


def test_a_learned_reward_trains_a_policy_through_the_pool(folder, tmp_path):
    path, run = tmp_path / "policy.yaml", tmp_path / "run"
    path.write_text(POLICY.replace("REWARD", str(folder)))
    train(read_recipe(path, [f"run={run}"]), resume=False)
    model = RewardModel.load(folder)
    for step in metrics(run):
        assert step["reward/unscorable_frac"] == 0
        assert step["reward/mean"] == pytest.approx(step["reward/part/learned"])
    sampled = [
        json.loads(line)
        for file in sorted((run / "rollouts").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    if sampled:
        task = text_task(sampled[0]["prompt"])
        [[score]] = model.score([(task, answered(task, sampled[0]["text"]))], name="r")
        assert score.value == pytest.approx(sampled[0]["reward"], abs=1e-5)


def test_an_ensemble_in_a_recipe_logs_how_far_its_members_differ(folder, tmp_path):
    other = saved(*character_model(seed=1, context=24), tmp_path / "other")
    path, run = tmp_path / "policy.yaml", tmp_path / "run"
    path.write_text(POLICY.replace("path: REWARD}", f"path: [{folder}, {other}]}}, ensemble: {{reducer: worst}}"))
    train(read_recipe(path, [f"run={run}", "train.steps=1"]), resume=False)
    [step] = metrics(run)
    assert step["reward/part/learned.disagreement"] > 0
    assert step["reward/part/learned"] < step["reward/part/learned.value"], "the worst is below the mean"


def test_a_critic_begins_as_the_reward_model_whose_number_it_learns(folder, tmp_path):
    same = saved(*character_model(context=24, characters="0123456789+="), tmp_path / "same")
    path = tmp_path / "policy.yaml"
    text = POLICY.replace("REWARD", str(same)).replace("algorithm: {type: grpo}", "algorithm: {type: ppo}")
    path.write_text(text + f"critic: {{path: {same}, lr: 1e-12}}\n")
    recipe = read_recipe(path, ["train.steps=1", "rollouts.group=1"])
    policy = build_policy(recipe, Group())
    critic = build_critic(recipe, recipe.stages[0], policy, 1)
    ids = policy.tokenizer("1+2=3")["input_ids"]
    [[score]] = RewardModel.load(same).score([(task := text_task("1+2="), answered(task, "3"))], name="r")
    assert by_the_book(critic, [*ids, policy.tokenizer.eos_token_id]) == pytest.approx(score.value, abs=1e-6)
    train(recipe.model_copy(update={"run": str(tmp_path / "run")}), resume=False)
    assert abs(metrics(tmp_path / "run")[0]["critic/value"]) > 0.05, "a fresh head says about 0"
    two = build_critic(recipe, recipe.stages[0], policy, 2)
    assert getattr(two, VALUE_HEAD).weight.abs().max() < 0.1, "a critic of two values begins with a fresh head"


def test_a_critic_that_cannot_read_the_policys_tokens_is_refused(folder, tmp_path):
    path, run = tmp_path / "policy.yaml", tmp_path / "run"
    text = POLICY.replace("REWARD", str(folder)).replace("algorithm: {type: grpo}", "algorithm: {type: ppo}")
    bert(tmp_path / "bert")
    for other in (folder, tmp_path / "bert"):
        path.write_text(text + f"critic: {{path: {other}}}\n")
        with pytest.raises(RecipeError, match=r"critic\.path: .* cannot read the policy's tokens"):
            train(read_recipe(path, [f"run={run}", "train.steps=1", "rollouts.group=1"]), resume=False)
        shutil.rmtree(run, ignore_errors=True)


def test_the_lab_and_best_of_n_take_a_learned_reward(folder, tmp_path, alignkit):
    table = tmp_path / "table.jsonl"
    labelled = [{"prompt": "1+2=", "completion": str(n), "label": n == 3} for n in range(2, 6)]
    table.write_text("".join(json.dumps(each) + "\n" for each in labelled))
    option = ("-o", f"path={folder}", "--workers", "1", "--json")
    told = json.loads(alignkit("reward", "test", str(table), "learned", *option, "--no-probes"))
    assert told["rows"] == 4 if "rows" in told else told
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"prompt": "1+2=", "completions": ["3", "4", "21"]}) + "\n")
    pick = tmp_path / "best.jsonl"
    alignkit("best-of-n", str(samples), "learned", *option, "--pick", str(pick))
    task, texts = text_task("1+2="), ["3", "4", "21"]
    [scores] = RewardModel.load(folder).score([(task, answered(task, *texts))], name="r")
    best = max(zip(scores, texts, strict=True), key=lambda pair: pair[0].value)[1]
    assert json.loads(pick.read_text())["completion"] == best


def test_it_is_served_in_batches_with_its_own_numbers(folder):
    from alignkit.rewards.serve.server import build_app

    task = text_task("1+2=")
    rollouts = answered(task, "3", "12", "5")
    [scores] = RewardModel.load(folder).score([(task, rollouts)], name="learned")
    reward = find_reward("learned", {"path": str(folder)})
    assert isinstance(reward, BatchReward), "so that `alignkit serve` scores in this process"
    scorer = Batcher(reward, batch=8, wait_s=0.001)
    with served(build_app(scorer, reward="learned", token=TOKEN)) as url:
        answer = httpx.post(
            f"{url}/score",
            json={"groups": [group_to_wire(task, rollouts)]},
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
    scorer.close()
    assert [score["value"] for score in answer.json()["scores"][0]] == pytest.approx(
        [s.value for s in scores], abs=1e-6
    )


def test_a_model_trained_anew_in_the_same_place_is_another_reward_to_its_clients(folder):
    """Clients keep answers under the server's fingerprint."""
    options = {"path": str(folder)}
    before = _fingerprint("learned", options)
    assert _fingerprint("learned", options) == before
    head = load_file(folder / f"{VALUE_HEAD}.safetensors")
    saved(*character_model(seed=1, context=24), folder)
    assert not torch.equal(head["weight"], load_file(folder / f"{VALUE_HEAD}.safetensors")["weight"])
    assert _fingerprint("learned", options) != before
