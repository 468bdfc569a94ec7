"""Export writes a folder that is proven to be the model, or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.cli import main
from alignkit.errors import ContentError, ExportError
from alignkit.models.lora import add_lora
from alignkit.models.save import save_pretrained
from alignkit.recipe.schema import Lora
from alignkit.run.export import merged
from alignkit.run.export.adapter import check_adapter
from alignkit.run.export.export import export
from alignkit.run.export.merged import check_merged
from alignkit.run.export.source import Source
from tests.unit.export_models import tiny, tokenizer_of, write


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A run with a base, and its final model with an adapter of all linear layers, both stored in bfloat16. What the
    adapter changes on the probe, 0.03 nats a token, is less than bfloat16 may cost."""
    place = tmp_path_factory.mktemp("run")
    base = write(place / "base", "SmolLM2")
    tokenizer = AutoTokenizer.from_pretrained(base)
    save_pretrained(AutoModelForCausalLM.from_pretrained(base), tokenizer, base, dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = add_lora(model, Lora(rank=2, alpha=4), seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01, generator=torch.Generator().manual_seed(1))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    save_pretrained(adapted, tokenizer, place / "run" / "final", dtype=torch.bfloat16)
    (place / "run" / "recipe.resolved.json").write_text("{}")
    return place / "run"


@pytest.fixture
def run(shared, tmp_path) -> Path:
    shutil.copytree(shared, tmp_path / "run")
    return tmp_path / "run"


def test_merged_is_read_by_transformers_and_says_what_the_final_model_says(run):
    done = export(str(run), to="merged")
    assert (done.folder, done.dtype) == (run / "export" / "merged", "bfloat16")
    assert done.gaps == {"gap": 0.0, "rounded": 0.0}
    ours, theirs = (AutoModelForCausalLM.from_pretrained(place) for place in (run / "final", done.folder))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(done.folder).chat_template == tokenizer_of("smollm2").chat_template
    assert not [*run.glob("**/*.unfinished")]


def test_rounding_to_float16_costs_under_a_hundredth_of_a_nat_and_is_told(tmp_path):
    write(tmp_path / "model", "Qwen2.5")
    done = export(str(tmp_path / "model"), to="merged", dtype="f16", out=tmp_path / "out")
    assert 0 < done.gaps["gap"] < 0.01
    assert done.gaps["rounded"] < 1e-5


def test_the_adapter_on_its_base_is_the_merged_model_but_for_bfloat16(run):
    done = export(str(run), to="adapter")
    assert 0 < done.gaps["gap"] < 0.02
    assert done.gaps["rounded"] < 1e-4
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(done.files)


def test_an_adapter_that_was_not_merged_is_caught(run):
    """The planted fault: final/ holds the base's weights, and the adapter beside them."""
    merged_file = run / "final" / "model.safetensors"
    named = json.loads((run / "final" / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    own = dict(AutoModelForCausalLM.from_pretrained(named).named_parameters())
    unmerged = {name: own[name].detach().bfloat16() for name in load_file(merged_file)}
    save_file(unmerged, merged_file, metadata={"format": "pt"})
    with pytest.raises(
        ExportError, match=r"says -\d.*the merged model says -\d.*allowed 0.001\); nothing was exported"
    ):
        export(str(run), to="adapter")
    assert not (run / "export" / "adapter").exists()
    assert not [*run.glob("**/*.unfinished")]


def test_an_adapter_whose_matrices_are_missing_is_caught(run, tmp_path):
    source = Source.find(str(run))
    model, tokenizer = source.load()
    shutil.copytree(run / "final" / "adapter", tmp_path / "out")
    tokenizer.save_pretrained(tmp_path / "out")
    file = tmp_path / "out" / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(weight) for name, weight in load_file(file).items()}, file)
    with pytest.raises(ExportError, match=r"the merged model says .* allowed 0\.001"):
        check_adapter(source, model, tokenizer, tmp_path / "out")


def written(model, tokenizer, folder: Path) -> Path:
    save_pretrained(model, tokenizer, folder, dtype=torch.float32)
    return folder


def test_a_stale_head_is_caught(tmp_path):
    """The planted fault: the embedding was trained, the head beside it was not."""
    tokenizer = tokenizer_of("smollm2")
    trained = tiny("llama", tokenizer, tie_word_embeddings=True)
    stale = tiny("llama", tokenizer, tie_word_embeddings=False)
    stale.load_state_dict(trained.state_dict())
    with torch.no_grad():
        stale.lm_head.weight.mul_(0.5)
    folder = written(stale, tokenizer, tmp_path / "out")
    with pytest.raises(ExportError, match="mean difference"):
        check_merged(trained, tokenizer, folder, "float32")


def test_another_end_of_turn_is_caught(tmp_path):
    tokenizer = tokenizer_of("llama_3_1")
    model = tiny("llama", tokenizer)
    ends = [tokenizer.convert_tokens_to_ids(one) for one in ("<|eot_id|>", "<|eom_id|>")]
    model.generation_config.eos_token_id = ends
    folder = written(model, tokenizer, tmp_path / "out")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": ends[0]}))
    with pytest.raises(ExportError, match=r"does not end at \d+ \(<\|eom_id\|>\)"):
        check_merged(model, tokenizer, folder, "float32")


def test_a_template_that_was_not_copied_is_caught(tmp_path):
    tokenizer = tokenizer_of("qwen2_5")
    model = tiny("qwen2", tokenizer)
    folder = written(model, tokenizer, tmp_path / "out")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ExportError, match="chat template renders nothing where the model's own gives '"):
        check_merged(model, tokenizer, folder, "float32")


def test_a_tokenizer_that_splits_otherwise_is_caught(tmp_path):
    tokenizer = tokenizer_of("qwen2_5")
    model = tiny("qwen2", tokenizer)
    folder = written(model, tokenizer, tmp_path / "out")
    changed = json.loads((folder / "tokenizer.json").read_text())
    letters = changed["model"]["vocab"]
    letters["a"], letters["b"] = letters["b"], letters["a"]
    (folder / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(ExportError, match="is split into"):
        check_merged(model, tokenizer, folder, "float32")


def test_what_fails_leaves_nothing_behind(run, monkeypatch):
    def unscaled(model, tokenizer, folder, *, dtype):
        with torch.no_grad():
            next(model.parameters()).mul_(0.9)
        save_pretrained(model, tokenizer, folder, dtype=dtype)
        with torch.no_grad():
            next(model.parameters()).div_(0.9)

    monkeypatch.setattr(merged, "save_pretrained", unscaled)
    with pytest.raises(ExportError):
        export(str(run), to="merged")
    assert [*(run / "export").iterdir()] == []


def test_what_cannot_be_exported_is_said_in_one_line(run, tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.resolved.json").write_text("{}")
    with pytest.raises(ContentError, match="no final model yet"):
        export(str(tmp_path / "begun"), to="merged")
    shutil.rmtree(run / "final" / "adapter")
    with pytest.raises(ContentError, match="has no adapter: the whole model was trained; use --to merged"):
        export(str(run), to="adapter")
    with pytest.raises(ContentError, match="is there already"):
        export(str(run), to="merged", out=tmp_path)
    (run / "final" / "value_head.safetensors").write_bytes(b"")
    with pytest.raises(ContentError, match="is a reward model"):
        export(str(run), to="merged")


def test_the_command_tells_what_was_proven(run, capsys):
    assert main.run(["export", str(run), "--to", "merged", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["to"], told["dtype"], told["gaps"]["gap"]) == ("merged", "bfloat16", 0.0)
    assert main.run(["export", str(run), "--to", "merged"]) == 2
    assert capsys.readouterr().err.strip().endswith("remove it, or name another place with --out")
