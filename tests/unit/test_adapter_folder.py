"""An adapter's folder as a model: on its base, merged or gone on with; else one line that says what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from alignkit.errors import ContentError, RecipeError
from alignkit.models.load import load_policy, model_folder, save_pretrained, tokenizer_place
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.schema import Lora, Model

IDS = torch.tensor([[3, 4, 5, 3]])
OWN = Lora(rank=2, alpha=6, target_modules=("q_proj", "embed_tokens"))


def write_base(folder: Path, *, hidden: int = 32, layers: int = 2, rows: int = 12) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=hidden, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    save_pretrained(LlamaForCausalLM(config), character_tokenizer("0123456+=", context=32), folder)
    return folder


def write_adapter(base: Path, folder: Path, *, dropout: float = 0.3, **settings: Any) -> torch.Tensor:
    """An adapter as peft writes it; returns the logits of base and adapter."""
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = {"target_modules": ["q_proj", "embed_tokens"], **settings}
    config = LoraConfig(r=2, lora_alpha=6, lora_dropout=dropout, init_lora_weights=False, **settings)
    adapted = get_peft_model(model, config).eval()
    adapted.save_pretrained(folder)
    return logits(adapted)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def rename_base(folder: Path, base: str | None) -> None:
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


def test_without_lora_the_merged_model_computes_what_base_and_adapter_compute_and_all_of_it_is_trained(base, tmp_path):
    expected = write_adapter(base, tmp_path / "adapter")
    policy, tokenizer = load_policy(Model(path="adapter"), seed=0, beside=tmp_path)
    torch.testing.assert_close(logits(policy), expected, rtol=0, atol=1e-5)
    assert float((logits(AutoModelForCausalLM.from_pretrained(base)) - expected).abs().max()) > 0.1
    assert all(parameter.requires_grad for parameter in policy.parameters())
    assert not any(".lora_" in name for name, _ in policy.named_parameters())
    assert tokenizer("3+4").input_ids == character_tokenizer("0123456+=", context=32)("3+4").input_ids
    assert tokenizer_place("adapter", tmp_path) == str(base)


def test_with_its_own_settings_the_adapter_is_gone_on_with_and_only_it_is_trained(base, tmp_path):
    expected = write_adapter(base, tmp_path / "adapter")
    policy, tokenizer = load_policy(Model(path="adapter", lora=OWN), seed=0, beside=tmp_path)
    torch.testing.assert_close(logits(policy), expected, rtol=0, atol=1e-5)
    assert {name for name, p in policy.named_parameters() if p.requires_grad and ".lora_" not in name} == set()
    policy.train()
    assert torch.equal(policy(input_ids=IDS).logits, policy(input_ids=IDS).logits), "dropout is off"
    save_pretrained(policy, tokenizer, tmp_path / "out")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "out" / "adapter"))
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=1e-5)
    named = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(base.resolve()), "wherever the adapter is read from"


@pytest.mark.parametrize("settings", [{"use_dora": True, "target_modules": ["v_proj"]}, {"use_rslora": True},
                                      {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}])  # fmt: skip
def test_adapters_of_other_kinds_are_merged_the_same(settings, base, tmp_path):
    expected = write_adapter(base, tmp_path / "adapter", **settings)
    policy, _ = load_policy(Model(path="adapter"), seed=0, beside=tmp_path)
    torch.testing.assert_close(logits(policy), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rank": 4}, "rank 4 here and 2 there"),
        ({"alpha": 8}, "alpha 8 here and 6 there"),
        ({"rslora": True}, "rslora True here and False there"),
        ({"target_modules": ("q_proj",)}, r"embed_tokens\.lora_embedding_A \(the folder's alone has it\)"),
    ],
)
def test_another_adapter_than_the_recipes_is_refused_by_what_differs(changes, named, base, tmp_path):
    write_adapter(base, tmp_path / "adapter")
    with pytest.raises(RecipeError, match=rf"model\.lora: not the adapter in .*{named}.*or leave `lora` out"):
        load_policy(Model(path="adapter", lora=OWN.model_copy(update=changes)), seed=0, beside=tmp_path)


@pytest.mark.parametrize("place", ["adapters/mine", "adapters/deep/mine"])
@pytest.mark.parametrize("from_where", ["the adapter", "the recipe", "here"])
def test_a_relative_base_is_looked_up_from_the_adapter_the_recipe_and_here(
    place, from_where, base, tmp_path, monkeypatch
):
    expected = write_adapter(base, tmp_path / place)
    up = "../" * (place.count("/") + 1)
    rename_base(tmp_path / place, {"the adapter": up + "base", "the recipe": "./base", "here": "../base"}[from_where])
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    policy, _ = load_policy(Model(path=place), seed=0, beside=tmp_path)
    torch.testing.assert_close(logits(policy), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (None, "does not say of which base model; write its path or name there"),
        ("./gone", r"whose base model './gone' is not there \(looked for .*gone.*correct `base_model_name_or_path`"),
        ("/no/where", r"whose base model '/no/where' is not there \(looked for /no/where\)"),
        ("no-org/no-model", r"'no-org/no-model' is the base of the LoRA adapter in .*mine"),
    ],
)
def test_a_base_that_is_not_there_is_named_with_the_cure(named, sentence, base, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_adapter(base, tmp_path / "mine")
    rename_base(tmp_path / "mine", named)
    with pytest.raises(ContentError, match=sentence):
        load_policy(Model(path="mine"), seed=0, beside=tmp_path)


@pytest.mark.parametrize("lora", [None, OWN])
@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ({"hidden": 48}, r"embed_tokens.* is \(12, 32\), which would have to be \(12, 48\)"),
        ({"rows": 16}, r"embed_tokens.* is \(12, 32\), which would have to be \(16, 32\)"),
        ({"layers": 1}, r"layers\.1\.self_attn\.q_proj\.lora_A"),
    ],
)
def test_an_adapter_of_another_base_is_refused_by_the_first_tensor_that_does_not_fit(
    size, sentence, lora, base, tmp_path
):
    targets = ("q_proj",) if "layers" in size else OWN.target_modules  # else its copy of the embedding differs first
    write_adapter(base, tmp_path / "mine", target_modules=list(targets))
    rename_base(tmp_path / "mine", str(write_base(tmp_path / "other", **size)))
    lora = None if lora is None else lora.model_copy(update={"target_modules": targets})
    with pytest.raises((ContentError, RecipeError), match=sentence):
        load_policy(Model(path="mine", lora=lora), seed=0, beside=tmp_path)


def test_an_adapter_of_a_base_of_the_same_sizes_is_known_by_its_copy_of_the_embedding(base, tmp_path):
    write_adapter(base, tmp_path / "mine")
    other: Any = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        other.model.embed_tokens.weight[3] += 0.5
    other.save_pretrained(base)
    for lora in (None, OWN):
        with pytest.raises(ContentError, match=r"its copy of model\.embed_tokens\.weight is not the base's"):
            load_policy(Model(path="mine", lora=lora), seed=0, beside=tmp_path)


def test_an_adapter_that_brings_a_larger_vocabulary_is_merged_with_it_and_not_gone_on_with(base, tmp_path):
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(15, mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(str(tmp_path / "mine"), save_embedding_layers=True)
    policy, _ = load_policy(Model(path="mine"), seed=0, beside=tmp_path)
    torch.testing.assert_close(logits(policy), logits(adapted), rtol=0, atol=1e-5)
    assert policy.config.vocab_size == 15
    with pytest.raises(RecipeError, match="brings a vocabulary of 15 where its base has 12"):
        load_policy(Model(path="mine", lora=Lora(rank=2, alpha=6, target_modules=("q_proj",))), seed=0, beside=tmp_path)


def test_a_damaged_adapter_is_one_line_with_its_file(base, tmp_path):
    write_adapter(base, tmp_path / "mine")
    file = tmp_path / "mine" / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:900])
    with pytest.raises(ContentError, match=r"mine/adapter_model\.safetensors is damaged"):
        load_policy(Model(path="mine"), seed=0, beside=tmp_path)
    file.unlink()
    with pytest.raises(ContentError, match=r"has no adapter_model\.safetensors"):
        load_policy(Model(path="mine"), seed=0, beside=tmp_path)
    (tmp_path / "mine" / "adapter_config.json").write_text("{")
    with pytest.raises(ContentError, match=r"adapter_config\.json cannot be read"):
        load_policy(Model(path="mine"), seed=0, beside=tmp_path)
    (tmp_path / "mine" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(ContentError, match="of peft's kind IA3, not LoRA"):
        load_policy(Model(path="mine"), seed=0, beside=tmp_path)


def test_an_adapter_of_an_adapter_and_one_to_be_evaluated_are_refused_with_the_cure(base, tmp_path):
    write_adapter(base, tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    rename_base(tmp_path / "second", str(tmp_path / "first"))
    with pytest.raises(ContentError, match="is an adapter, too; merge that one first"):
        load_policy(Model(path="second"), seed=0, beside=tmp_path)
    with pytest.raises(ContentError, match="is a LoRA adapter, not a whole model; name the model that it was merged"):
        model_folder(str(tmp_path / "first"))
