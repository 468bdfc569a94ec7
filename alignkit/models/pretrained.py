"""Reads a model that somebody saved, and says in one line what is wrong with it where it cannot be used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import ContentError, RecipeError, first_line
from alignkit.models.device_type import default_device
from alignkit.models.encoder import Encoder, is_encoder
from alignkit.models.experts import follow_autocast
from alignkit.models.quantized import (
    bitsandbytes_settings,
    check_device,
    check_quantizable,
    compute_by_autocast,
    scales,
)
from alignkit.models.tokenizer import recognise
from alignkit.models.weights import whole
from alignkit.recipe.lookup.secrets import FOR_THE_HUB, lent

if TYPE_CHECKING:
    from torch.nn import Module

BUFFERS = ("attn.bias", "masked_bias")  # what old checkpoints hold beside their weights


@lent(FOR_THE_HUB)
def load_pretrained(path: str, revision: str | None = None, quantization: str | None = None) -> tuple[Module, Any]:
    """A causal language model (or encoder) and its tokenizer from a folder or hub id; float32, safetensors only.

    quantization: of the base under an adapter, each of whose weights is quantised on the device that trains as it is
    read. The tokenizer is as it was saved. Raises ContentError when either cannot be found, is damaged, does not have
    the sizes that its config says, or holds numbers that are not finite; RecipeError where 4 bits cannot be had.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    options: dict[str, Any] = {"trust_remote_code": False}
    if revision is not None:
        options["revision"] = revision
    if Path(path).is_dir() and (why := _bad_generation(Path(path))):
        raise ContentError(f"model.path: cannot load {path}: {why}")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it reports of lacking weights in many lines is said below in one
    try:
        config = without_dropout(AutoConfig.from_pretrained(path, **options))
        reads_only = is_encoder(config)
        if quantization is not None:
            check_quantizable(path, config, reads_only)
            options["quantization_config"] = bitsandbytes_settings(quantization)
            options["device_map"] = {"": default_device()}
            check_device(quantization, default_device())
        auto: Any = AutoModel if reads_only else AutoModelForCausalLM
        loaded: Any = auto.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            attn_implementation=own_attention(config, auto),
            use_safetensors=True,  # other formats can hold code
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
            **options,
        )
    except SafetensorError as error:
        raise _damaged(path, error) from error
    except RecipeError:
        raise
    except Exception as error:  # transformers raises anything over a config that does not hang together
        raise _unusable(path, error) from error
    finally:
        logging.set_verbosity(verbosity)
    model, info = loaded
    _check_sizes(path, model, info)
    _check_numbers(path, model)
    if quantization is not None:
        compute_by_autocast(model)
    return (Encoder(model) if reads_only else follow_autocast(model)), load_tokenizer(path, revision)


@lent(FOR_THE_HUB)
def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """The tokenizer in a folder or at a hub id. Raises ContentError when there is none or it is damaged."""
    from transformers import AutoTokenizer

    options = {} if revision is None else {"revision": revision}
    try:
        return recognise(AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options))
    except Exception as error:  # the Rust tokenizer raises bare Exception
        raise _unusable(f"the tokenizer of {path}", error, place=path) from error


def own_attention(config: Any, auto: Any) -> str:
    """transformers' attention that computes all that an architecture asks for: SDPA, "eager" where it lacks something.

    auto: AutoModel or AutoModelForCausalLM. SDPA would leave out a soft cap of scores without a word.
    """
    kind = auto._model_mapping.get(type(config), None)
    kind = kind[0] if isinstance(kind, tuple) else kind
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return "sdpa" if not capped and getattr(kind, "_supports_sdpa", True) else "eager"


def _unusable(what: str, error: Exception, place: str | None = None) -> ContentError:
    folder = Path(place or what)
    cure = "check the folder" if folder.is_dir() else "check the name, or download it while online"
    return ContentError(f"model.path: cannot load {what}: {first_line(error)}; {cure}")


def _bad_generation(folder: Path) -> str | None:
    """Why transformers refuses the folder's generation settings, None where it takes them."""
    from transformers import GenerationConfig

    file = folder / "generation_config.json"
    if not file.is_file():
        return None
    try:
        GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{file.name}: {first_line(error)}; correct that setting, or remove the file"
    return None


def _damaged(path: str, error: Exception) -> ContentError:
    """Names the file that is cut or overwritten."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(path).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as own:
            return ContentError(f"model.path: {file} is damaged ({first_line(own)}); fetch or save it again")
    return ContentError(f"model.path: a weight file of {path} is damaged ({first_line(error)}); fetch it again")


def _check_sizes(path: str, model: Any, info: dict[str, Any]) -> None:
    """That config.json describes the weights, all of them and nothing else."""
    for name, saved, wanted in info["mismatched_keys"]:
        sizes = f"{name} is {tuple(saved)} in the weights and {tuple(wanted)} by config.json"
        raise ContentError(
            f"model.path: {path}: {sizes} ({len(info['mismatched_keys'])} differ); its config is another model's: "
            "put the right one there"
        )
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]  # which nothing here reads
    if missing:
        raise ContentError(
            f"model.path: {path} lacks {len(missing)} weights of its architecture, first: {min(missing)}; fetch or "
            "save it again, or correct its config.json"
        )
    homeless = sorted(_homeless(info["unexpected_keys"], model))
    if homeless:
        raise ContentError(
            f"model.path: {path} holds {len(homeless)} weights for which its config.json has no place, first: "
            f"{homeless[0]}; without them it is another model: correct its config.json"
        )


def _homeless(names: Iterable[str], model: Any) -> list[str]:
    """Of weights that were not loaded those that belong to a part which the model has: a layer too many, a bias.

    Parts that it does not have at all (a vision tower, heads for other purposes) are left out on purpose.
    """
    modules = dict(model.named_modules())
    outside = {"", model.base_model_prefix}
    found = []
    for name in names:
        if not re.search(r"\.(weight|bias)$", name) or name.endswith(BUFFERS):
            continue
        parent = name.rpartition(".")[0]
        while parent not in modules:
            parent = parent.rpartition(".")[0]
        if parent not in outside:
            found.append(name)
    return found


def _check_numbers(path: str, model: Any) -> None:
    """One pass over the weights: a NaN would be found at the first step only, as if training had made it."""
    for name, weight in model.named_parameters():
        with whole([weight]):
            weight = scales(weight)
            low, high = weight.detach().aminmax()
        if not (low - low == 0 and high - high == 0):  # of NaN and of infinities it is NaN
            raise ContentError(f"model.path: {path}: {name} holds numbers that are not finite; fetch or save it again")


def without_dropout(config: Any) -> Any:
    for name, value in vars(config).items():
        if isinstance(value, float) and ("dropout" in name or "pdrop" in name):
            setattr(config, name, 0.0)
    return config
