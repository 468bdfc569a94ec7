"""The recipes of families through SFT, DPO and GRPO, on a small random model of each published config with the family's
template: which tokens are learnt, where sampling stops, and the first loss by transformers' own forward."""

from __future__ import annotations

import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignkit.content import ROOT
from alignkit.models.load import save_pretrained
from alignkit.models.tokenizer import stop_tokens
from alignkit.recipe.lookup.find import list_content
from alignkit.recipe.read import read_recipe
from alignkit.run.train.train import run as train
from alignkit.train.step import Step
from alignkit.types.batch import Batch
from tests.families import tokenizer
from tests.family_turns import TEMPLATES, THOUGHT, asked, one, talk
from tests.model_families import shrunk

pytestmark = pytest.mark.filterwarnings("ignore")
MODELS = tuple(TEMPLATES)
FAST = {("sft", "gpt-oss-20b"), ("dpo", "gemma-3-1b"), ("grpo", "qwen3.5-9b")}
SHORT = ["model.dtype=float32", "model.lora.rank=2", "optimizer.warmup_steps=0", "checkpoints.every=null"]


def each(method: str) -> list[Any]:
    return [pytest.param(name, marks=() if (method, name) in FAST else pytest.mark.slow) for name in MODELS]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a small model of the family, which ends a turn at once about three times in ten."""

    @cache
    def made(name: str) -> Path:
        words = tokenizer(TEMPLATES[name])
        published = read_recipe(f"sft/{name}", ["data.source=hub:any/rows"]).model.path
        model = shrunk(ROOT / "recipes" / "models" / "configs" / f"{published}.json", words)
        stops_at_once(model, words.encode(asked(name), add_special_tokens=False), stop_id(name))
        folder = tmp_path_factory.mktemp("models") / name
        save_pretrained(model, words, folder)
        return folder

    return made


@torch.no_grad()
def stops_at_once(model: Any, prompt: list[int], stop: int, odds: float = 0.4) -> None:
    """Lays the head's row of the stop token along the state in which the answer begins, for these odds."""
    head, others = model.get_output_embeddings().weight, torch.arange(len(model.get_output_embeddings().weight)) != stop
    for _ in range(4):  # a tied row moves the state, too
        said = model(input_ids=torch.tensor([prompt]), output_hidden_states=True)
        state = said.hidden_states[-1][0, -1]
        logit = said.logits[0, -1, others].logsumexp(0) + torch.tensor(odds).log()
        head[stop] = state * logit / state.square().sum()


def stop_id(name: str) -> int:
    """The token that ends what `one` shows to be learnt."""
    ids = tokenizer(TEMPLATES[name]).encode(one(name).partition("⟧")[0], add_special_tokens=False)
    return ids[-1]


@pytest.fixture
def ran(checkpoint, tmp_path, monkeypatch):
    """Runs a recipe of the shelf for a step, and gives the batch that it learns, its metrics and its folder."""

    def run(method: str, name: str, rows: list[dict[str, Any]], *changes: str) -> tuple[Batch, dict[str, Any], Path]:
        batches: list[Batch] = []
        update = Step.update
        monkeypatch.setattr(
            Step, "update", lambda self, batch, *rest: batches.append(batch) or update(self, batch, *rest)
        )
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = [f"model.path={checkpoint(name)}", f"data.source={tmp_path / 'rows.jsonl'}", f"run={tmp_path / 'run'}"]
        train(read_recipe(f"{method}/{name}", [*given, *SHORT, *changes]), resume=False)
        [metrics] = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        [batch] = batches
        return batch, metrics, tmp_path / "run"

    return run


def sequences(batch: Batch) -> list[tuple[list[int], list[bool], slice]]:
    """Each sequence from its first token: ids, which of them are learnt, and where its own tokens are in the batch."""
    found = []
    for block in batch.blocks:
        prompt, start = slice(block.start, block.start + block.prompt), block.start + block.prompt
        for length in block.lengths:
            own = slice(start, start + length)
            ids = [*batch.tokens[prompt].tolist(), *batch.tokens[own].tolist()]
            found.append((ids, [*[False] * block.prompt, *batch.action_mask[own].tolist()], own))
            start += length
    return found


def shown(batch: Batch, name: str) -> list[str]:
    """Each sequence as text, what is learnt of it between ⟦ and ⟧."""
    words, texts = tokenizer(TEMPLATES[name]), []
    for ids, mask, _ in sequences(batch):
        text, inside = "", False
        for token, learnt in [*zip(ids, mask, strict=True), (None, False)]:
            text += "⟦" if learnt and not inside else "⟧" if inside and not learnt else ""
            text, inside = text + (words.convert_ids_to_tokens(token) if token is not None else ""), learnt
        texts.append(in_bytes(text))
    return texts


def in_bytes(text: str) -> str:
    """Spaces and line breaks as they are, of a text of byte-level tokens."""
    return text.replace("Ġ", " ").replace("Ċ", "\n")


@torch.no_grad()
def by_hand(batch: Batch, folder: Path) -> list[torch.Tensor]:
    """The log-probs of each sequence's learnt tokens, by the saved model's own logits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    found = []
    for ids, mask, _ in sequences(batch):
        said = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        logprobs = said.gather(-1, torch.tensor(ids)[1:, None])[:, 0]
        found.append(logprobs[torch.tensor(mask[1:])])
    return found


def stops_of(run: Path) -> set[int]:
    """The stop tokens that the saved model names."""
    ids = json.loads((run / "final" / "generation_config.json").read_text())["eos_token_id"]
    return set(ids if isinstance(ids, list) else [ids])


@pytest.mark.parametrize("name", each("sft"))
def test_sft_learns_the_assistants_turns_and_their_ends_by_their_mean_log_prob(name, ran, checkpoint):
    said = [{"role": "assistant", "content": THOUGHT.get(name, "") + text} for text in ("Blue.", "Seven.")]
    question = [{"role": "user", "content": text} for text in ("A colour?", "A number?")]
    rows = [{"messages": [question[0], said[0]]}, {"messages": [question[0], said[0], question[1], said[1]]}]
    batch, metrics, run = ran("sft", name, rows, "train.batch=2")
    assert sorted(shown(batch, name), key=len) == [one(name), talk(name)]
    logprobs = torch.cat(by_hand(batch, checkpoint(name)))
    assert metrics["loss/tokens"] == len(logprobs)
    assert metrics["loss/policy"] == pytest.approx(float(-logprobs.mean()), abs=1e-4)
    assert stop_id(name) in stops_of(run)


@pytest.mark.parametrize("name", each("dpo"))
def test_dpo_compares_the_two_answers_by_the_log_probs_of_their_own_tokens(name, ran, checkpoint):
    thought = THOUGHT.get(name, "")
    row = {"prompt": "A colour?", "chosen": f"{thought}Blue.", "rejected": f"{thought}Seven."}
    batch, metrics, _ = ran("dpo", name, [row], "train.batch=1")
    assert shown(batch, name) == [one(name), one(name).replace("Blue.", "Seven.")]
    chosen, rejected = by_hand(batch, checkpoint(name))
    assert metrics["pairs/logprob_chosen"] == pytest.approx(float(chosen.sum()), abs=1e-3)
    assert metrics["pairs/logprob_rejected"] == pytest.approx(float(rejected.sum()), abs=1e-3)
    assert batch.require("ref_logprobs")[batch.action_mask] == pytest.approx(torch.cat([chosen, rejected]), abs=1e-4)
    assert metrics["loss/policy"] == pytest.approx(0.693147, abs=1e-6)  # an adapter begins as the reference: ln 2


@pytest.mark.parametrize("name", each("grpo"))
def test_grpo_samples_behind_the_generation_prompt_to_the_end_of_the_turn_and_trusts_its_log_probs(
    name, ran, checkpoint
):
    changes = ("rollouts={engine: hf, prompts: 1, group: 8, max_new_tokens: 3}", "train={steps: 1}")
    changes += ("rewards=[{name: ends_with_stop}]", "rollouts.canary_tolerance=1e-4")
    batch, metrics, run = ran("grpo", name, [{"prompt": "A colour?"}], *changes)
    words = tokenizer(TEMPLATES[name])
    [block] = batch.blocks
    assert in_bytes("".join(words.convert_ids_to_tokens(batch.tokens[: block.prompt].tolist()))) == asked(name)
    stops = {stop.id for stop in stop_tokens(words, None)}
    assert stop_id(name) in stops
    assert stops <= stops_of(run)
    answers = [batch.tokens[own].tolist() for _, _, own in sequences(batch)]
    assert [any(token in stops for token in ids[:-1]) for ids in answers] == [False] * 8
    assert [float(ids[-1] in stops) for ids in answers] == batch.reward.tolist()
    assert 0 < sum(batch.reward.tolist()) < 8
    logprobs = by_hand(batch, checkpoint(name))
    assert batch.require("sampler_logprobs")[batch.action_mask] == pytest.approx(torch.cat(logprobs), abs=1e-4)
    assert metrics["sync/canary_gap"] < 1e-4
    advantages, lengths = batch.reward - batch.reward.mean(), torch.tensor([len(ids) for ids in answers])
    assert metrics["loss/policy"] == pytest.approx(float(-(advantages * lengths).sum() / lengths.sum()), abs=1e-5)


def test_the_page_has_the_recipes_of_the_shelf():
    script = runpy.run_path(str(Path(__file__).parents[2] / ".ci" / "families_docs.py"))
    assert script["with_recipes"]() == script["MODELS"].read_text(encoding="utf-8"), "run: make data-docs"


def test_every_model_of_the_shelf_has_a_recipe_for_each_method_and_is_tested():
    names = [found.name for found in list_content("recipes") if found.origin == "shelf"]
    assert sorted(name.removeprefix("models/") for name in names if name.startswith("models/")) == sorted(MODELS)
    assert [f"{way}/{name}" for name in MODELS for way in ("sft", "dpo", "grpo") if f"{way}/{name}" not in names] == []
