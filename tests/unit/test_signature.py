"""Signed folders: every kind of change is named, and only the owner's key makes a signature."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from alignkit.cli import main

FILES = (
    "recipe.resolved.json",
    "metrics.jsonl",
    "checkpoints/step-000002/manifest.json",
    "checkpoints/step-000002/model.safetensors",
    "final/model.safetensors",
    "rollouts/main-000000.parquet",
)


@pytest.fixture
def alignkit(capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main.run([str(one) for one in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def signed(tmp_path, alignkit) -> Path:
    """A signed folder, with the keys beside it."""
    folder = tmp_path / "run"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    assert alignkit("run", "keygen", tmp_path / "my.key")[0] == 0
    assert alignkit("run", "sign", folder, "--key", tmp_path / "my.key")[0] == 0
    return folder


@pytest.fixture
def verify(alignkit, signed):
    return lambda key="my.key.pub": alignkit("run", "verify", signed, "--key", signed.parent / key)


def test_an_untouched_folder_verifies_with_the_public_and_with_the_private_key(verify, signed):
    assert verify() == (0, f"{signed} is as it was signed\n", "")
    assert verify("my.key")[0] == 0
    (signed / "lock.json").write_text("{}")  # another process had a look
    assert verify()[0] == 0
    table = json.loads((signed / "signature.json").read_text())["files"]
    assert sorted(table) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_of_any_file_is_named(verify, signed, name):
    content = bytearray((signed / name).read_bytes())
    content[-1] ^= 1
    (signed / name).write_bytes(content)
    assert verify() == (1, f"changed: {name}\n", "")


def test_missing_added_and_linked_files_are_named_all_at_once(verify, signed, alignkit):
    (signed / "final/model.safetensors").unlink()
    (signed / "final/modeling_new.py").write_text("print()")
    (signed / "metrics.jsonl").unlink()
    (signed / "metrics.jsonl").symlink_to(signed / "recipe.resolved.json")
    (signed / "elsewhere").symlink_to(signed.parent, target_is_directory=True)
    wanted = [
        "added: elsewhere",
        "added: final/modeling_new.py",
        "changed: metrics.jsonl",
        "missing: final/model.safetensors",
    ]
    code, out, err = verify()
    assert (code, out.splitlines(), err) == (1, wanted, "")
    code, out, _ = alignkit("run", "verify", signed, "--key", signed.parent / "my.key.pub", "--json")
    assert code == 1
    assert [f"{one['kind']}: {one['file']}" for one in json.loads(out)["found"]] == wanted


def test_a_manifest_rewritten_to_fit_a_changed_weight_is_noticed(verify, signed):
    """What hashes alone cannot see: both files agree with one another."""
    for name in ("model.safetensors", "manifest.json"):
        (signed / "checkpoints/step-000002" / name).write_text("changed together")
    assert verify()[1].splitlines() == [
        "changed: checkpoints/step-000002/manifest.json",
        "changed: checkpoints/step-000002/model.safetensors",
    ]


def test_a_table_rewritten_to_fit_a_changed_file_is_no_signature_of_the_key(verify, signed):
    path = signed / "signature.json"
    (signed / "metrics.jsonl").write_text("better numbers")
    content = json.loads(path.read_text())
    content["files"].pop("metrics.jsonl")
    path.write_text(json.dumps(content))
    code, out, err = verify()
    assert (code, out) == (2, "")
    assert err.endswith("its table was changed; get the folder again from its owner\n")


def test_a_folder_signed_anew_by_somebody_else_is_refused_with_both_keys_named(verify, signed, alignkit):
    other = signed.parent / "other.key"
    alignkit("run", "keygen", other)
    (signed / "final/model.safetensors").write_text("other weights")
    assert alignkit("run", "sign", signed, "--key", other)[0] == 0
    code, _, err = verify()
    assert code == 2
    assert "was made with the key" in err
    content = json.loads((signed / "signature.json").read_text())
    content["key"] = "0" * 64
    (signed / "signature.json").write_text(json.dumps(content))
    assert verify()[0] == 2


REFUSED = {
    "there is no signature": (lambda folder: (folder / "signature.json").unlink(), "is not signed"),
    "it is empty": (lambda folder: (folder / "signature.json").write_text(""), "cannot be read"),
    "it is of another kind": (lambda folder: (folder / "signature.json").write_text("{}"), "cannot be read"),
    "it is no table": (lambda folder: (folder / "signature.json").write_text("[3]"), "cannot be read"),
    "the key is gone": (lambda folder: (folder.parent / "my.key.pub").unlink(), "keygen"),
    "the key is none": (lambda folder: (folder.parent / "my.key.pub").write_text("key"), "is no public key"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_without_a_usable_key_and_signature_it_is_one_line_and_exit_code_2(verify, signed, what):
    harm, said = REFUSED[what]
    harm(signed)
    code, out, err = verify()
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


def test_a_public_key_signs_nothing_and_a_link_cannot_be_signed(signed, alignkit):
    code, _, err = alignkit("run", "sign", signed, "--key", signed.parent / "my.key.pub")
    assert (code, "is no private key" in err) == (2, True)
    (signed / "final/link").symlink_to("/etc/hostname")
    code, _, err = alignkit("run", "sign", signed, "--key", signed.parent / "my.key")
    assert (code, "is no plain file" in err) == (2, True)
    assert alignkit("run", "sign", signed / "nowhere", "--key", signed.parent / "my.key")[0] == 2


def test_the_private_key_is_its_owners_alone_and_is_never_overwritten(signed, alignkit):
    key = signed.parent / "my.key"
    before = key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    code, _, err = alignkit("run", "keygen", key)
    assert (code, "exists already" in err, key.read_bytes()) == (2, True, before)
