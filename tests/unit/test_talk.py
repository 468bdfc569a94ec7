"""Talking to what a run left: the trainer's template, stop tokens and rewards, word by word."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from alignkit.cli import main
from alignkit.engines.hf import HfEngine
from alignkit.errors import ContentError, DataError, EngineError, RewardError
from alignkit.models.device_type import has_gpu
from alignkit.models.load import load_policy
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Model
from alignkit.rewards.pool.pool import RewardPool
from alignkit.run.serve import serve_policy
from alignkit.run.serve.serve import Address
from alignkit.run.talk import sampled
from alignkit.run.talk.conversation import Conversation
from alignkit.run.talk.sampled import Sampling, sample
from alignkit.run.talk.talker import Talker, _Text
from alignkit.run.talk.trained import Trained
from alignkit.run.train.train import run
from alignkit.types.rollout import Request
from alignkit.types.seeds import child

RECIPE = """
model: {scratch: {characters: "0123456789+= ", layers: 1, hidden: 32, heads: 2, context: 24}, dtype: float32}
data: {source: "generator:arithmetic", options: {digits: 1, style: characters}, chat: false}
rewards: [{name: exact_match}]
rollouts: {engine: hf, temperature: 0.5, prompts: 2, group: 2, max_new_tokens: 4, reward_workers: 1}
algorithm: {type: grpo}
optimizer: {lr: 1e-3}
train: {steps: 1}
"""


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("talk")
    (folder / "r.yaml").write_text(RECIPE)
    run(read_recipe(folder / "r.yaml", [f"run={folder / 'run'}"]), resume=False, as_json=True)
    return folder / "run"


def test_a_run_is_talked_to_as_it_was_trained(left):
    trained = Trained.find(str(left))
    assert trained.folder == left / "final"
    assert (trained.temperature, trained.data.chat, [spec.name for spec in trained.rewards]) == (
        0.5,
        False,
        ["exact_match"],
    )


def test_a_run_without_a_final_model_and_a_reward_model_are_refused_with_the_cure(left, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.resolved.json").write_text((left / "recipe.resolved.json").read_text())
    with pytest.raises(ContentError, match=r"no final model yet; end it with `alignkit train \.\.\. --resume`"):
        Trained.find(str(tmp_path / "run"))
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "reward.json").write_text("{}")
    with pytest.raises(ContentError, match="is a reward model and says no words"):
        Trained.find(str(tmp_path / "reward"))


def say(talker: Talker, text: str, **more) -> tuple[str, list[str]]:
    pieces: list[str] = []
    settings = {"temperature": 0.0, "max_new_tokens": 8, "seed": 0, **more}
    return talker.say([{"role": "user", "content": text}], told=pieces.append, **settings), pieces


def test_greedy_words_are_those_of_the_exact_engine_and_come_piece_by_piece(left):
    talker = Talker(Trained.find(str(left)))
    text, pieces = say(talker, "2+3=")
    policy, tokenizer = load_policy(Model(path=str(left / "final")), seed=0)
    prompt = talker.prompt([{"role": "user", "content": "2+3="}])
    request = Request(
        prompt_ids=prompt, seed=0, max_new_tokens=8, temperature=0.0, stop_token_ids=(tokenizer.eos_token_id,)
    )
    [completion] = asyncio.run(HfEngine(policy, dtype="float32", share=True).generate([request]))
    stops = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert text == tokenizer.decode([token for token in completion.token_ids if token not in stops])
    assert "".join(pieces) == text
    assert len(pieces) == len(text)  # a token is a letter here


def test_the_same_seed_says_the_same_and_another_one_something_else(left):
    talker = Talker(Trained.find(str(left)))
    said = [say(talker, "2+3=", temperature=5.0, seed=seed)[0] for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_a_conversation_that_fills_the_context_says_how_to_go_on(left):
    with pytest.raises(DataError, match=r"fill the model's context of 24; begin anew with /new"):
        say(Talker(Trained.find(str(left))), "1" * 30)


def test_a_letter_of_two_tokens_is_told_when_it_is_whole():
    told: list[str] = []
    stream = _Text(lambda ids: {0: "", 1: "a", 2: "a\ufffd", 3: "aü"}[len(ids)], told.append, skipped=2)
    for ids in ([7, 8], [1], [2], [3]):  # transformers hands the prompt over first
        stream.put(torch.tensor([ids]))
    stream.end()
    assert (told, stream.text) == (["a", "ü"], "aü")


def test_answers_are_scored_by_the_runs_rewards_or_it_is_said_why_not(left):
    trained = Trained.find(str(left))
    with closing(RewardPool(trained.rewards, workers=1, beside=left)) as pool:
        two = Conversation(talkers=[Talker(trained)] * 2, pool=pool, temperature=0.0, max_new_tokens=4, seed=0)
        told: list[int] = []
        first, second = two.ask("2+3=", lambda number, piece: told.append(number))
    assert first.text == second.text
    assert set(told) == {0, 1}
    assert first.judged.startswith("no reward: ")  # nobody said what is right


def test_answers_to_a_file_are_those_of_the_engine_with_rewards_where_there_is_a_reference(left, tmp_path, monkeypatch):
    rows = [{"prompt": "2+3=", "reference": "5"}, {"prompt": "4+4=", "reference": "8"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Sampling(samples=3, temperature=1.0, max_new_tokens=4, engine="hf", seed=5)
    seen: list[tuple[str, str]] = []
    trained = Trained.find(str(left))
    monkeypatch.setattr(sampled, "AT_ONCE", 3)  # one prompt at a time
    told = sample(
        trained,
        str(tmp_path / "p.jsonl"),
        settings,
        out=tmp_path / "a.jsonl",
        told=lambda row, answer: seen.append((row["completion"], answer.judged)),
    )
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(line["prompt"], line["sample"]) for line in lines] == [(r["prompt"], n) for r in rows for n in range(3)]
    right = {row["prompt"]: row["reference"] for row in rows}
    assert [line["reward"] for line in lines] == [float(line["completion"] == right[line["prompt"]]) for line in lines]
    assert (told["prompts"], told["answers"], told["scored"], told["faults"]) == (2, 6, 6, {})
    assert [line["parts"] for line in lines] == [{"exact_match": line["reward"]} for line in lines]
    assert seen == [(line["completion"], f"{line['reward']:.3g} (exact_match {line['reward']:.3g})") for line in lines]
    assert not (tmp_path / "a.jsonl.unfinished").exists()
    policy, tokenizer = load_policy(Model(path=str(left / "final")), seed=0)
    prompt = tuple(Talker(Trained.find(str(left))).prompt([{"role": "user", "content": "4+4="}]))
    request = Request(
        prompt_ids=prompt, seed=child(5, "sample", 1, 2), max_new_tokens=4, stop_token_ids=(tokenizer.eos_token_id,)
    )
    [alone] = asyncio.run(HfEngine(policy, dtype="float32", share=True).generate([request]))
    assert len(alone.token_ids) == lines[5]["tokens"]


def test_a_reward_that_fails_is_a_named_fault_beside_the_answer_and_never_0(left, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"prompt": "2+3="}\n{"prompt": "1+1=", "reference": "2"}\n')
    asked = [
        "sample",
        str(left),
        str(tmp_path / "p.jsonl"),
        "--engine",
        "hf",
        "--max-tokens",
        "2",
        "--temperature",
        "0",
    ]
    assert main.run([*asked, "--out", str(tmp_path / "a.jsonl")]) == 0
    unscored, scored = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert unscored["reward"] is None
    assert unscored["fault"].startswith("gold in exact_match: ")
    assert "parts" not in unscored
    assert set(scored["parts"]) == {"exact_match"}
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith("  reward: no reward: gold in exact_match: ")
    assert told[3] == f"  reward: {scored['reward']:.3g} (exact_match {scored['reward']:.3g})"
    assert told[-1].endswith("; 1 without a reward, gold in exact_match")


def test_answers_that_were_there_when_the_engine_died_are_kept(left, tmp_path, monkeypatch):
    (tmp_path / "p.jsonl").write_text('{"prompt": "2+3="}\n{"prompt": "1+1="}\n')
    monkeypatch.setattr(sampled, "AT_ONCE", 1)
    real = HfEngine.generate

    async def once(self, requests):
        if asked:
            raise EngineError("the engine died")
        asked.append(requests)
        return await real(self, requests)

    asked: list = []
    monkeypatch.setattr(HfEngine, "generate", once)
    settings = Sampling(temperature=0.0, max_new_tokens=2, engine="hf")
    with pytest.raises(EngineError):
        sample(Trained.find(str(left)), str(tmp_path / "p.jsonl"), settings, out=tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()
    [kept] = (tmp_path / "a.jsonl.unfinished").read_text().splitlines()
    assert json.loads(kept)["prompt"] == "2+3="


def test_a_file_of_answers_is_never_overwritten(left, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("mine")
    assert main.run(["sample", str(left), "p.jsonl", "--out", str(tmp_path / "a.jsonl")]) == 2
    assert "exists already and is left alone" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_text() == "mine"


def test_an_engine_that_there_is_not_is_refused_before_anything_is_read(left, tmp_path, capsys):
    assert main.run(["sample", str(left), "p.jsonl", "--engine", "vlm", "--out", str(tmp_path / "a.jsonl")]) == 2
    assert "--engine is vlm; wanted vllm, hf, or http://HOST:PORT" in capsys.readouterr().err


def test_a_model_is_served_by_vllms_own_server_and_the_token_stands_in_no_list_of_processes(left, monkeypatch):
    became: list = []
    monkeypatch.setattr(serve_policy.os, "execve", lambda *given: became.extend(given))
    monkeypatch.setenv("ALIGNKIT_TOKEN", "secret-9")
    told: list[dict] = []
    serve_policy.serve_policy(left / "final", name="mine", address=Address(port=8901), context=24, ready=told.append)
    program, command, variables = became
    assert program == sys.executable
    where = ["--host", "127.0.0.1", "--port", "8901", "--max-model-len", "24"]
    how = ["--dtype", "float32", *([] if has_gpu() else ["--enforce-eager"])]
    assert command[3:] == [*how, "--model", str(left / "final"), "--served-model-name", "mine", *where]
    assert not any("secret-9" in word for word in command)
    assert variables["VLLM_API_KEY"] == "secret-9"
    assert told == [{"url": "http://127.0.0.1:8901/v1", "model": "mine"}]


def test_a_model_is_not_served_to_the_network_in_the_clear(left):
    with pytest.raises(RewardError, match=r"--host 0\.0\.0\.0 is open to the network"):
        serve_policy.serve_policy(left, name="m", address=Address(host="0.0.0.0"), context=None, ready=print)


def test_a_reward_file_named_where_the_command_was_typed_is_found_again_when_the_model_is_talked_to(
    tmp_path, monkeypatch
):
    mine = "from alignkit.rewards.base import reward\n\n\n@reward\ndef short(completion, task):\n    return 0.25\n"
    for name in ("shelf", "work", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "shelf" / "r.yaml").write_text(RECIPE)
    (tmp_path / "work" / "mine.py").write_text(mine)
    (tmp_path / "work" / "p.jsonl").write_text('{"prompt": "1+1=", "reference": "2"}\n')
    monkeypatch.chdir(tmp_path / "work")
    settings = [f"run={tmp_path / 'work' / 'runs' / 'r'}", "rewards.0.name=./mine.py:short"]
    run(read_recipe(tmp_path / "shelf" / "r.yaml", settings), resume=False, as_json=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    asked = [str(tmp_path / "work" / "runs" / "r"), str(tmp_path / "work" / "p.jsonl"), "--out", "a.jsonl"]
    assert main.run(["sample", *asked, "--engine", "hf", "--max-tokens", "2"]) == 0
    [row] = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert row["reward"] == 0.25
