"""What lies in a model folder is data: pickles, Python files beside the weights and a tokenizer's own are never run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alignkit.errors import AlignkitError, ContentError
from alignkit.models.load import load_policy
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.schema import Model
from alignkit.run.check.preflight import _pretrained_tokenizer
from alignkit.run.evaluate.evaluated_model import load_parts


class Touches:
    """An object that makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model with a Python file beside it that makes a file `canary` when it is imported."""
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=0
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    character_tokenizer("01", context=8).save_pretrained(tmp_path / "model")
    source = f"from pathlib import Path\nPath({str(tmp_path / 'canary')!r}).touch()\nclass Own:\n    pass\n"
    (tmp_path / "model" / "own.py").write_text(source)
    return tmp_path / "model"


def change(file: Path, **settings: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def weights_as_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Touches(folder.parent / "canary")}, folder / "pytorch_model.bin")


def a_model_of_its_own(folder: Path) -> None:
    change(
        folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    )


@pytest.mark.parametrize("attack", [weights_as_a_pickle, a_model_of_its_own])
def test_a_folder_that_needs_code_is_refused_in_one_line_and_its_code_is_not_run(attack, folder):
    attack(folder)
    with pytest.raises(AlignkitError) as caught:
        load_policy(Model(path=str(folder)), seed=0)
    assert "\n" not in str(caught.value)
    assert not (folder.parent / "canary").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_a_known_model_or_tokenizer_brings_is_left_alone(file, folder):
    names = ["AutoConfig", "AutoModelForCausalLM"] if file == "config.json" else ["AutoTokenizer"]
    own = {"AutoTokenizer": ["own.Own", None]} if names == ["AutoTokenizer"] else dict.fromkeys(names, "own.Own")
    change(folder / file, auto_map=own)
    _, tokenizer = load_policy(Model(path=str(folder)), seed=0)
    assert tokenizer.decode(tokenizer.encode("01")) == "01"
    assert not (folder.parent / "canary").exists()


def test_nobody_is_asked_whether_code_may_run_when_a_folder_is_checked_or_evaluated(folder, monkeypatch):
    """transformers asks on the terminal where it is not told; an answer of `y` would run the file."""
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    change(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]})
    a_model_of_its_own(folder)
    with pytest.raises(ContentError, match="cannot load"):
        load_parts(folder, "a model")
    with pytest.raises(ContentError, match="no tokenizer at"):
        _pretrained_tokenizer(str(folder), None, folder)
    assert asked == []
    assert not (folder.parent / "canary").exists()


def test_the_canary_shows_code_that_runs(folder):
    """Otherwise the tests above would pass for attacks that are merely broken."""
    weights_as_a_pickle(folder)
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (folder.parent / "canary").exists()
    (folder.parent / "canary").unlink()
    exec((folder / "own.py").read_text(), {})
    assert (folder.parent / "canary").exists()
