"""Saved is trained: a run ends well only when plain transformers and peft say of final/ what the trainer says."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from alignkit.errors import CheckpointError, ContentError, HealthError, RecipeError
from alignkit.models.generation import valid_generation
from alignkit.models.load import save_pretrained
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.read import read_recipe
from alignkit.run.train import rehearse, saved
from alignkit.run.train.train import run as train
from tests.unit.reward_folders import bert

RECIPE = """
seed: 0
model: {path: ./model, dtype: float32}
data: {source: ./rows.jsonl, chat: false}
algorithm: {type: sft}
optimizer: {lr: 1e-2}
train: {steps: 6, batch: 2}
checkpoints: {every: null}
"""
PLACES = {
    "head": "target_modules: [q_proj, lm_head]",
    "embedding": "target_modules: [q_proj, embed_tokens]",
    "both, rslora": "target_modules: [embed_tokens, lm_head], rslora: true",
    "whole head": "target_modules: [q_proj], modules_to_save: [lm_head]",
    "dora": "dora: true",
}


def write_model(folder: Path, *, tied: bool = True, generation: dict[str, Any] | None = None) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=tied, pad_token_id=None,
    )  # fmt: skip
    save_pretrained(LlamaForCausalLM(config), character_tokenizer("0123456+=", context=32), folder)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Any]:
    """Reads the recipe with some changes, for a run of a name; the model is tied."""
    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(3) for b in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    write_model(tmp_path / "model")
    return lambda *changes, run="run": read_recipe(tmp_path / "recipe.yaml", [*changes, f"run={tmp_path / run}"])


def event(run: Path, kind: str) -> dict[str, Any]:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [each for each in events if each["kind"] == kind][-1]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_an_adapter_anywhere_is_trained_and_saved_as_it_was_trained(place, tied, recipe, tmp_path):
    write_model(tmp_path / "model", tied=tied)
    train(recipe(f"model.lora={{rank: 2, alpha: 4, {PLACES[place]}}}"), resume=False)
    final = tmp_path / "run" / "final"
    weights = load_file(final / "adapter" / "adapter_model.safetensors")
    assert all(float(weight.abs().max()) > 0 for weight in weights.values()), "every matrix has moved from its zeros"
    told = event(tmp_path / "run", "saved")
    assert 0 <= told["merged"] < 1e-5
    assert 0 <= told["adapter"] < 1e-5
    where, then = event(tmp_path / "run", "message")["text"].split("; next: ")
    assert where == f"the trained model is {final}"
    assert then == f"`alignkit report {tmp_path / 'run'}`, `alignkit export {tmp_path / 'run'} --to gguf`"
    assert told["final"] == told["merged"], "nothing is rounded in float32"
    parted = not tied or place != "dora"
    assert AutoModelForCausalLM.from_pretrained(final).config.tie_word_embeddings is not parted
    assert not list(final.parent.glob("final.*")), "no trial and nothing unfinished is left"


def test_a_model_whose_head_differs_from_the_embedding_that_its_config_ties_it_to_keeps_both(recipe, tmp_path):
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 0.1
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    train(recipe(), resume=False)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final")
    assert model.config.tie_word_embeddings is False
    assert float((model.lm_head.weight - model.model.embed_tokens.weight).abs().max()) > 0.05


@pytest.mark.slow
def test_an_encoders_adapter_is_saved_for_the_plain_encoder_and_gone_on_with(recipe, tmp_path):
    bert(tmp_path / "bert")
    pairs = [{"prompt": "what is", "chosen": "one two", "rejected": "three"}] * 4
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    changes = ["algorithm={type: bradley_terry}", "data.chat=false", "model.lora={rank: 2}"]
    train(recipe("model.path=bert", *changes), resume=False)
    assert event(tmp_path / "run", "saved")["adapter"] < 1e-5
    names = load_file(tmp_path / "run" / "final" / "adapter" / "adapter_model.safetensors")
    assert min(names).startswith("base_model.model.encoder.layer.0."), "as BertModel calls them"
    for number, lora in enumerate(("model.lora={rank: 2}", "model.lora=null")):
        train(recipe("model.path=run/final/adapter", *changes, lora, run=f"more-{number}"), resume=False)
        assert event(tmp_path / f"more-{number}", "saved")["merged"] < 1e-5


def test_in_bfloat16_stored_weights_are_the_rounded_ones_and_the_merge_is_still_compared_exactly(recipe, tmp_path):
    train(recipe("model.lora={target_modules: [embed_tokens]}", "model.dtype=bfloat16"), resume=False)
    told = event(tmp_path / "run", "saved")
    assert told["merged"] < 1e-5 < told["final"] < 0.05
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final").dtype == torch.bfloat16


@pytest.mark.parametrize("part", ["weight", "config", "adapter"])
def test_a_final_model_that_is_another_one_ends_the_run_with_both_numbers_and_has_no_name(
    part, recipe, tmp_path, monkeypatch
):
    def spoilt(*arguments: Any, **options: Any) -> None:
        written(*arguments, **options)
        folder = arguments[-1]
        if part == "config":
            settings = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 0.1}))
        else:
            file = folder / ("model.safetensors" if part == "weight" else "adapter/adapter_model.safetensors")
            weights = load_file(file)
            weights[min(weights)] += 0.01 if part == "weight" else 3.0
            save_file(weights, file, metadata={"format": "pt"})

    written = saved._write
    monkeypatch.setattr(saved, "_write", spoilt)
    sentence = {
        "weight": r"model\.embed_tokens\.weight is up to 0\.01 from the trained weight",
        "config": r"the merged model says -\d\.\d+ on the probe where the trainer says -\d\.\d+ \(mean difference 0\.",
        "adapter": r"the adapter on its base says -\d+\.\d+ on the probe where the trainer says -\d\.\d+",
    }[part]
    with pytest.raises(CheckpointError, match=sentence + r".*do not use it.*--resume"):
        train(recipe("model.lora={target_modules: [q_proj]}"), resume=False)
    assert not (tmp_path / "run" / "final").exists()
    monkeypatch.setattr(saved, "_write", written)
    train(recipe("model.lora={target_modules: [q_proj]}"), resume=True)  # from the last checkpoint
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "final.unfinished").exists()


def test_a_disk_that_refuses_the_final_model_says_how_to_go_on(recipe, tmp_path, monkeypatch):
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved, "_write", full)
    with pytest.raises(CheckpointError, match=r"could not be written .*No space left.*--resume then writes it"):
        train(recipe(), resume=False)


def test_too_little_room_for_the_final_model_is_said_before_the_first_step(recipe, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(rehearse.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match=r"final/ takes \d+\.\d MiB and 0\.0 MiB are free; free some space"):
        train(recipe(), resume=False)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_model_that_could_not_be_saved_ends_the_run_before_its_first_step(recipe, tmp_path, monkeypatch):
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ValueError("it is not serializable")

    monkeypatch.setattr(rehearse, "describe", refuse)
    with pytest.raises(ContentError, match="could not be saved at the end of the run: it is not serializable"):
        train(recipe(), resume=False)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature", "top_p"}),
        ({"temperature": 0.6, "min_p": 0.1}, {"temperature", "min_p"}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, set()),
        ({"early_stopping": True, "length_penalty": 0.5}, {"early_stopping", "length_penalty"}),
        ({"num_beams": 4, "early_stopping": True, "num_return_sequences": 2}, set()),
        ({"pad_token_id": -1, "eos_token_id": [2, 7]}, {"pad_token_id"}),
        ({"output_scores": True}, {"output_scores"}),
        ({"use_cache": False, "cache_implementation": "static"}, {"cache_implementation"}),
    ],
)
def test_generation_settings_that_cannot_be_saved_are_left_out_and_all_others_kept(given, left_out, tmp_path):
    config = GenerationConfig(**given)
    valid, without = valid_generation(config)
    assert set(without) == left_out
    valid.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    for name, value in given.items():
        assert (getattr(again, name) == value) is (name not in left_out), name


def test_a_model_with_settings_that_cannot_be_saved_is_trained_saved_and_resumed_and_the_run_says_what_it_left_out(
    recipe, tmp_path
):
    write_model(tmp_path / "model", generation={"do_sample": False, "temperature": 0.6, "eos_token_id": [2, 5]})
    train(recipe("checkpoints.every=2"), resume=False)
    lines = (tmp_path / "run" / "events.jsonl").read_text()
    assert re.search(r"leave out of its generation settings[^\n]*temperature 0\.6", lines)
    kept = GenerationConfig.from_pretrained(tmp_path / "run" / "final")
    assert (kept.do_sample, kept.eos_token_id) == (False, [2, 5])
    shutil.rmtree(tmp_path / "run" / "final")
    train(recipe("checkpoints.every=2"), resume=True)
    assert (tmp_path / "run" / "final" / "generation_config.json").is_file()


def test_an_adapter_that_nothing_trains_stops_the_run(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("alignkit.models.forward.effective_weight", lambda head: head.base_layer.weight)
    changes = ["model.lora={target_modules: [q_proj, lm_head]}", "health.dead_steps=5"]
    with pytest.raises(
        HealthError, match=r"untrained: 2 weights had no gradient in 5 updates, e\.g\. .*lm_head\.lora_A"
    ):
        train(recipe(*changes, "train.fast_paths=true"), resume=False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            ["model.lora={target_modules: [q_proj, lm_head], modules_to_save: [lm_head]}"],
            r"model\.lora\.modules_to_save: lm_head is in target_modules, too",
        ),
        (["model.lora={}", "model.frozen=true"], "an adapter would stay as it is; remove one of the two"),
        (
            ["model.lora={modules_to_save: [lm_head]}", "algorithm={type: bradley_terry}"],
            r"model\.lora: bradley_terry makes a reward model, which says no words: lm_head would never be trained",
        ),
    ],
)
def test_an_adapter_that_could_not_be_trained_is_refused_by_check(changes, sentence, recipe):
    with pytest.raises(RecipeError, match=sentence):
        recipe(*changes)


def test_the_numbers_compared_are_those_of_the_trained_model(recipe, tmp_path):
    """Guards the comparison itself: an adapter that is left out of both sides would agree with itself."""
    train(recipe("model.lora={target_modules: [lm_head], rank: 4}", "train.steps=12"), resume=False)
    final = tmp_path / "run" / "final"
    ids = torch.tensor([character_tokenizer("0123456+=", context=32)("1+2=").input_ids])
    with torch.no_grad():
        base, trained = (AutoModelForCausalLM.from_pretrained(at)(ids).logits for at in (tmp_path / "model", final))
    assert math.isfinite(float(trained.sum()))
    assert float((base - trained).abs().max()) > 0.1
