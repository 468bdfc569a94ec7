"""Models that somebody saved and that are broken: one line with the path, what is wrong and the cure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignkit.errors import ContentError
from alignkit.models.load import load_policy, save_pretrained
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.schema import Model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    save_pretrained(LlamaForCausalLM(config), character_tokenizer("0123456+=", context=32), tmp_path / "model")
    return tmp_path / "model"


def header_too_large(weights: bytes) -> bytes:
    return b"\xff" * 8 + weights[8:]


def config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | changes))

    return change


@pytest.mark.parametrize("damage", [header_too_large, lambda weights: weights[:5000], lambda weights: b""])
def test_damaged_weights_are_named_by_their_file(damage, folder):
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ContentError, match=rf"^model\.path: {file} is damaged \(.*\); fetch or save it again$"):
        load_policy(Model(path=str(folder)), seed=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (config(hidden_size=16), r"is \(.*32.*\) in the weights and \(.*16.*\) by config\.json \(20 differ\)"),
        (config(vocab_size=9), r"model\.embed_tokens\.weight is \(12, 32\) in the weights and \(9, 32\)"),
        (config(num_hidden_layers=3), r"lacks 9 weights of its architecture, first: model\.layers\.2\."),
        (config(num_hidden_layers=1), r"holds 9 weights for which its config\.json has no place, .*\.layers\.1"),
        (config(num_attention_heads=5), r"hidden size \(32\) is not a multiple"),
        (config(hidden_size="x"), "'hidden_size' expected int"),
        (config(model_type="nope"), "does not recognize this architecture"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"a": 1}'), "cannot load the tokenizer of"),
        (lambda folder: (folder / "generation_config.json").write_text("{"), r"generation_config\.json: .*or remove"),
        (
            lambda folder: (folder / "generation_config.json").write_text('{"num_return_sequences": 3}'),
            r"generation_config\.json: Greedy methods .*; correct that setting, or remove the file",
        ),
    ],
)  # fmt: skip
def test_a_config_that_is_another_models_is_refused_by_what_does_not_fit(change, sentence, folder):
    change(folder)
    with pytest.raises(ContentError, match=sentence) as caught:
        load_policy(Model(path=str(folder)), seed=0)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value, folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContentError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds numbers that are not finite"):
        load_policy(Model(path=str(folder)), seed=0)


def test_weights_of_parts_that_the_model_does_not_have_are_left_out(folder):
    weights = load_file(folder / "model.safetensors")
    weights |= {"vision_tower.blocks.0.weight": torch.ones(2, 2), "model.visual.blocks.0.weight": torch.ones(2, 2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    policy, _ = load_policy(Model(path=str(folder)), seed=0)
    assert len(list(policy.parameters())) == 20


def test_a_bias_that_the_config_denies_is_not_dropped_in_silence(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.bias"] = torch.ones(32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContentError, match=r"has no place, first: model\.layers\.0\.self_attn\.q_proj\.bias"):
        load_policy(Model(path=str(folder)), seed=0)


@pytest.mark.parametrize("pad", [None, "<eos>", "<pad>"])
def test_the_tokenizer_is_saved_with_the_pad_token_that_it_came_with(pad, folder, tmp_path):
    inner = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "one": 2}, unk_token="<eos>"))
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token=pad).save_pretrained(folder)
    policy, tokenizer = load_policy(Model(path=str(folder)), seed=0)
    save_pretrained(policy, tokenizer, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token == pad
