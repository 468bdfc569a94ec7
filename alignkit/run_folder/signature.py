"""Signed folders: an Ed25519 signature over the sha256 of every file, so that a change by anybody is noticed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import SignatureError, StorageError
from alignkit.types.files import guarded, write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FILE = "signature.json"
UNSIGNED = (FILE, "lock.json")  # the lock says which process has the folder now
KIND = "alignkit folder 1"
"""Is signed with the table, so that a signature means nothing else."""


def make_key(path: Path) -> Path:
    """Writes a new private key, for its owner alone, and the public key beside it, whose path is returned.

    Raises SignatureError where a file stands already, StorageError.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = path.with_name(path.name + ".pub")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    for file, content, mode in ((path, private, 0o600), (public, _public_bytes(key.public_key()), 0o644)):
        with guarded(file):
            try:
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            except FileExistsError as error:
                raise SignatureError(f"{file} exists already and is left alone; name another file") from error
            with os.fdopen(descriptor, "wb") as written:
                written.write(content)
    return public


def sign(folder: Path, key: Path) -> int:
    """Signs all files of a folder with a private key; returns how many. Raises SignatureError, StorageError."""
    private = _private_key(key)
    table = _table(folder)
    if not table:
        raise SignatureError(f"{folder}: there is nothing to sign; name a run folder or a model's folder")
    odd = [name for name, digest in table.items() if not digest]
    if odd:
        raise SignatureError(f"{folder / odd[0]} is no plain file and cannot be signed; replace it by a copy")
    content = {
        "kind": KIND,
        "key": _fingerprint(private.public_key()),
        "signature": private.sign(_signed(table)).hex(),
        "files": table,
    }
    write_atomically(folder / FILE, json.dumps(content, indent=1) + "\n")
    return len(table)


def verify(folder: Path, key: Path) -> list[tuple[str, str]]:
    """What differs from what was signed: ("changed", "missing" or "added", file), sorted; empty when nothing does.

    key: the public key, or the private one. Raises SignatureError when the folder has no signature of that key.
    """
    from cryptography.exceptions import InvalidSignature

    public = _public_key(key)
    table, signature, signer = _read(folder)
    if signer != _fingerprint(public):
        raise SignatureError(
            f"{folder / FILE} was made with the key {signer[:16]}, {key} is {_fingerprint(public)[:16]}; give the "
            "signer's public key, or do not trust the folder"
        )
    try:
        public.verify(signature, _signed(table))
    except InvalidSignature as error:
        raise SignatureError(
            f"{folder / FILE} is not what {key} signed: its table was changed; get the folder again from its owner"
        ) from error
    there = _table(folder)
    changed = {name for name in table.keys() & there.keys() if table[name] != there[name]}
    kinds = (("changed", changed), ("missing", table.keys() - there.keys()), ("added", there.keys() - table.keys()))
    return sorted((kind, name) for kind, names in kinds for name in names)


def _read(folder: Path) -> tuple[dict[str, str], bytes, str]:
    path = folder / FILE
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        table, signature, signer = content["files"], bytes.fromhex(content["signature"]), content["key"]
        if content["kind"] != KIND or not isinstance(table, dict) or not isinstance(signer, str):
            raise ValueError(f"it is no signature of the kind '{KIND}'")
    except FileNotFoundError as error:
        raise SignatureError(
            f"{folder} is not signed: there is no {FILE}; its owner signs it with `alignkit run sign`"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SignatureError(
            f"{path} cannot be read ({type(error).__name__}: {error}); get it again from the folder's owner"
        ) from error
    return table, signature, signer


def _signed(table: dict[str, str]) -> bytes:
    return json.dumps([KIND, sorted(table.items())]).encode()


def _table(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder by its name in it; "" for what is no plain file, such as a link."""
    if not folder.is_dir():
        raise SignatureError(f"there is no folder {folder}; name a run folder or a model's folder")
    table = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in UNSIGNED:
            table[name] = _digest(path) if path.is_file() and not path.is_symlink() else ""
    return dict(sorted(table.items()))


def _files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise StorageError(f"{error.filename} cannot be read ({error.strerror}): check its permissions") from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        yield from (Path(root, name) for name in files)
        yield from (Path(root, name) for name in folders if Path(root, name).is_symlink())


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}): check its permissions") from error


def _private_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_key_bytes(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{path} is no private key; `alignkit run keygen FILE` makes one") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{path} is a private key of another kind than Ed25519; `alignkit run keygen` makes one")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _key_bytes(path)
    if b"PRIVATE KEY" in content:
        return _private_key(path).public_key()
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{path} is no public key; give the .pub file of `alignkit run keygen`") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{path} is a public key of another kind than Ed25519; ask for the signer's .pub file")
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SignatureError(
            f"the key {path} cannot be read ({error.strerror}); `alignkit run keygen FILE` makes one"
        ) from error


def _public_bytes(key: Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)


def _fingerprint(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(_public_bytes(key)).hexdigest()
