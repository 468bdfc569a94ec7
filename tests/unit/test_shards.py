"""A model is written file by file: what is held is one file's worth, and the folder is one that transformers reads."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from alignkit.errors import StorageError
from alignkit.models import shards
from alignkit.models.save import save_pretrained
from alignkit.models.shards import INDEX, write_shards
from alignkit.models.tokenizer import character_tokenizer
from alignkit.models.weights import named_policy_weights
from alignkit.types.files import save_tensors
from tests.live_bytes import Live
from tests.tiny import causal_lm


def test_several_files_with_their_index_are_read_by_transformers_as_the_model(tmp_path: Path):
    model = causal_lm("llama_tied").eval()
    save_pretrained(model, character_tokenizer("0123", context=32), tmp_path, shard_bytes=9000)
    index = json.loads((tmp_path / INDEX).read_text())
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 2
    for file in files:
        stored = load_file(tmp_path / file)
        assert sum(tensor.nbytes for tensor in stored.values()) <= 9000 or len(stored) == 1
    weights = dict(named_policy_weights(model))
    assert index["weight_map"].keys() == weights.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())
    read = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, tensor in named_policy_weights(read):
        assert torch.equal(tensor, weights[name]), name
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(read(ids).logits, model(ids).logits)


def test_one_file_holds_what_fits_into_it_and_needs_no_index(tmp_path: Path):
    save_pretrained(causal_lm(), character_tokenizer("0123", context=32), tmp_path)
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]


def test_no_more_is_held_than_one_file_and_a_tensor(tmp_path: Path):
    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        for number in range(20):
            yield f"{number}.weight", torch.full((250,), float(number))  # 1,000 bytes

    with Live() as live:
        write_shards(weights(), tmp_path, shard_bytes=4000)
    assert 4000 <= live.peak <= 6000
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    assert float(load_file(tmp_path / "model-00005-of-00005.safetensors")["19.weight"][7]) == 19.0


def test_of_files_that_the_disk_refuses_none_is_left_and_what_was_there_stays(tmp_path, monkeypatch):
    write_shards([("a", torch.ones(4))], tmp_path, name="first")
    before = (tmp_path / "first.safetensors").read_bytes()
    written = []

    def full(tensors, path, **options):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        save_tensors(tensors, path, **options)

    monkeypatch.setattr(shards, "save_tensors", full)
    with pytest.raises(StorageError, match="No space left"):
        write_shards([("a", torch.zeros(4)), ("b", torch.zeros(4))], tmp_path, name="first", shard_bytes=16)
    assert len(written) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["first.safetensors"]
    assert (tmp_path / "first.safetensors").read_bytes() == before
