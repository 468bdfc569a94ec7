"""Checkpoints whose manifest is none, whose weights are another model's or no numbers, and what is left out of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignkit.errors import CheckpointError
from alignkit.models.critic import add_value_head, freeze_words
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.schema import Optimizer
from alignkit.train.checkpoint import read_state, save, verify
from alignkit.train.state import State
from alignkit.train.target import Target
from tests.tiny import causal_lm


def trainer() -> SingleTrainer:
    return SingleTrainer(causal_lm(), Optimizer(lr=1e-3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path, State(done=4), recipe="{}", parts={"": trainer()}, group=Group(), keep=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "manifest.json does not name state.json, recipe.json, model.safetensors"),
        ("[]", "manifest.json holds no table of files but []"),
        ("null", "manifest.json holds no table of files but null"),
        ("1", "manifest.json holds no table of files but 1"),
        ('"x"', 'manifest.json holds no table of files but "x"'),
        ("", "manifest.json cannot be read: JSONDecodeError"),
    ],
)
def test_a_manifest_that_names_nothing_is_damage(folder, text, says):
    (folder / "manifest.json").write_text(text)
    assert verify(folder) == says


@pytest.mark.parametrize("gone", ["state.json", "recipe.json", "model.safetensors"])
def test_a_manifest_that_lacks_a_name_is_damage_though_every_file_is_there(folder, gone):
    table = json.loads((folder / "manifest.json").read_text())
    del table[gone]
    (folder / "manifest.json").write_text(json.dumps(table))
    assert verify(folder) == f"manifest.json does not name {gone}"


@pytest.mark.parametrize(("name", "digest"), [("../../x", "0"), ("/etc/passwd", "0"), ("optimizer.safetensors", 5)])
def test_a_manifest_that_names_what_is_no_file_of_a_checkpoint_is_damage(folder, name, digest):
    table = json.loads((folder / "manifest.json").read_text()) | {name: digest}
    (folder / "manifest.json").write_text(json.dumps(table))
    assert verify(folder) == f"manifest.json names '{name}', which is no file of a checkpoint"


def test_weights_that_no_manifest_knows_are_damage_and_notes_are_not(folder):
    (folder / "note.txt").write_text("the good one")
    assert verify(folder) is None
    save_file({"x": torch.zeros(1)}, folder / "model-1.safetensors")
    assert verify(folder) == "model-1.safetensors is not in its manifest.json"


def test_a_state_of_another_version_is_named(folder):
    (folder / "state.json").write_text('{"stage": 0, "moon": 1}')
    with pytest.raises(CheckpointError, match=r"state\.json: cannot be read .*written by another version"):
        read_state(folder)


def test_a_weight_of_another_shape_is_named_with_both(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"model\.safetensors: model\.norm\.weight has the shape \[3, 3\], this model's has \[32\]",
    ):
        trainer().load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(folder, value):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][5] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds a number that is not finite"):
        trainer().load(folder)


def test_a_file_that_is_no_safetensors_file_is_named(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read \("):
        trainer().load(folder)


def critic(seed: int) -> Forward:
    model = add_value_head(causal_lm(seed=seed), 1, seed=0)
    freeze_words(model)
    return Forward(model=model, dtype=torch.float32, want=("values",))


def test_a_slow_critic_keeps_what_its_critic_trains_and_no_head_for_words(tmp_path):
    """The head for words is the policy's as the stage began, which a resumed run no longer has when it builds this."""
    target = Target(critic(0), rate=0.5, group=Group())
    target.save(tmp_path)
    kept = load_file(tmp_path / "target.safetensors")
    trained = {name for name, p in critic(0).model.named_parameters() if p.requires_grad}
    assert kept.keys() == trained
    assert "lm_head.weight" not in kept
    resumed = Target(critic(1), rate=0.5, group=Group())
    resumed.load(tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    resumed.save(again)
    assert (again / "target.safetensors").read_bytes() == (tmp_path / "target.safetensors").read_bytes()


def test_a_slow_critic_that_three_ranks_have_saved_is_loaded_by_one(tmp_path):
    """Each parameter is in one rank's file, and the ranks write about equally many numbers."""
    for rank in range(3):
        Target(critic(0), rate=0.5, group=Group(rank, 3)).save(tmp_path)
    files = [load_file(tmp_path / f"target-{rank}.safetensors") for rank in range(3)]
    numbers = [sum(tensor.numel() for tensor in file.values()) for file in files]
    assert max(numbers) - min(numbers) < 1600, "the largest parameter, 32 x 48 numbers, decides how even it gets"
    one = Target(critic(1), rate=0.5, group=Group())
    one.load(tmp_path)
    own = dict(one.forward.model.named_parameters())
    assert sum(len(file) for file in files) == len({name for file in files for name in file})
    for name, tensor in {name: tensor for file in files for name, tensor in file.items()}.items():
        assert torch.equal(own[name], tensor)


def test_a_slow_critic_of_an_older_checkpoint_with_that_head_can_be_loaded(tmp_path):
    whole = {name: p.detach().clone() for name, p in critic(1).model.named_parameters()}
    save_file(whole, tmp_path / "target.safetensors")
    target = Target(critic(0), rate=0.5, group=Group())
    target.load(tmp_path)
    own = dict(target.forward.model.named_parameters())
    assert torch.equal(own["model.norm.weight"], whole["model.norm.weight"])
    save_file(whole | {"other": torch.zeros(1)}, tmp_path / "target.safetensors")
    with pytest.raises(CheckpointError, match=r"its weights are not this model's, e\.g\. other"):
        target.load(tmp_path)
