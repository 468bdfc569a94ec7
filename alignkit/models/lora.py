"""Puts an adapter around a model, as a recipe's `model.lora` says."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alignkit.errors import RecipeError
from alignkit.models.encoder import Encoder
from alignkit.models.quantized import is_quantized
from alignkit.types.seeds import child

if TYPE_CHECKING:
    from torch.nn import Module

    from alignkit.recipe.schema import Lora


def add_lora(policy: Module, lora: Lora, seed: int) -> Any:
    """The policy as a PeftModel that computes what the policy does until its adapter is trained.

    The global random state is left as it was. Raises RecipeError for layers that do not exist, and for DoRA on layers
    with an output whose weights are all zero.
    """
    from peft import LoraConfig, get_peft_model
    from torch.nn import Linear

    reads_only = isinstance(policy, Encoder)
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    if reads_only and targets == "all-linear":  # which peft knows of transformers' own classes only
        targets = [
            name for name, layer in policy.named_modules() if isinstance(layer, Linear) and ".pooler." not in name
        ]
    alpha: Any = lora.alpha  # peft declares an int and divides it by the rank; a fraction is as good
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=targets,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        modules_to_save=list(lora.modules_to_save) or None,
        task_type=None if reads_only else "CAUSAL_LM",
    )
    _check_whole(policy, lora)
    try:
        with seeded(seed, "lora"), quiet():
            model = get_peft_model(policy, config)
    except ValueError as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RecipeError(f"model.lora.target_modules: {line}") from error
    if lora.dora:
        _check_lengths(model)
    return model


def _check_whole(policy: Module, lora: Lora) -> None:
    """That each module to be trained whole exists and can be: peft would say nothing."""
    names = [name for name, _ in policy.named_modules()]
    for module in lora.modules_to_save:
        found = [name for name in names if name == module or name.endswith(f".{module}")]
        if not found:
            raise RecipeError(f"model.lora.modules_to_save: the model has no module '{module}'; name one of its own")
        if any(map(is_quantized, map(policy.get_submodule, found))):
            problem = f"'{module}' is held in 4 bits (model.quantization), which cannot be trained"
            raise RecipeError(f"model.lora.modules_to_save: {problem}; put it into target_modules instead")


def _check_lengths(model: Any) -> None:
    """DoRA divides by the length of each output's weights; tied heads often have a row of zeros, for the pad token."""
    for name, parameter in model.named_parameters():
        if ".lora_magnitude_vector." in name and not bool(parameter.all()):
            layer = name.removeprefix("base_model.model.").partition(".lora_")[0]
            output = int((parameter == 0).nonzero()[0])
            problem = f"all weights of output {output} of {layer} are 0, and DoRA divides by their length"
            raise RecipeError(f"model.lora.dora: {problem}; take {layer} out of target_modules, or use plain LoRA")


@contextmanager
def seeded(seed: int, name: str) -> Generator[None]:
    """Within it torch's global generator is that of (seed, name); afterwards as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child(seed, name))
        yield


@contextmanager
def quiet() -> Generator[None]:
    """peft warns that adapters on tied weights can be merged wrongly: here they are not, see models/weights.py."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"peft\.")
        yield
