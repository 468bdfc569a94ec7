"""A model without its weights, from nothing but its config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import ContentError, first_line
from alignkit.models.encoder import Encoder, is_encoder
from alignkit.models.experts import follow_autocast
from alignkit.models.pretrained import own_attention
from alignkit.models.quantized import check_quantizable
from alignkit.recipe.lookup.find import KINDS
from alignkit.recipe.lookup.secrets import FOR_THE_HUB, lent
from alignkit.run.memory.quantized_sizes import quantized_sizes

if TYPE_CHECKING:
    from torch.nn import Module

CONFIGS = "configs"  # folder beside a recipe: ORG/NAME.json of models that are not on this machine
SHIPPED = KINDS["recipes"].shelf / "models" / CONFIGS


class NoTokenizer:
    """Stands where a tokenizer would: the sizes of tensors do not depend on it."""

    chat_template: str | None = None
    eos_token_id: int | None = None

    def get_vocab(self) -> dict[str, int]:
        return {}

    def convert_ids_to_tokens(self, token: int) -> str:
        return str(token)


def model_of_config(
    path: str, revision: str | None, beside: Path | None, layers: int | None = None, quantization: str | None = None
) -> tuple[Module, Any]:
    """The architecture of a folder or hub id in float32, as `load_pretrained` gives it, on the device that is set.

    layers: how many it is given; None: its own. quantization: of its linear layers, whose bytes it then has.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    config = config_of(path, revision, beside)
    if layers is not None:
        text = config.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    kind = AutoModel if is_encoder(config) else AutoModelForCausalLM
    how = own_attention(config, kind)
    model: Any = kind.from_config(config, dtype=torch.float32, attn_implementation=how)
    if quantization is not None:
        check_quantizable(path, config, is_encoder(config))
        quantized_sizes(model, quantization)
    return (Encoder(model) if is_encoder(config) else follow_autocast(model)), NoTokenizer()


@lent(FOR_THE_HUB)
def config_of(path: str, revision: str | None, beside: Path | None) -> Any:
    """Its transformers config: of the folder, of the hub's cache, of `configs/ORG/NAME.json` beside the recipe or
    the shipped ones, of the hub, in this order. Raises ContentError where none is to be had."""
    from transformers import AutoConfig

    options: dict[str, Any] = {"trust_remote_code": False} | ({} if revision is None else {"revision": revision})
    noted = None if beside is None else beside / CONFIGS / f"{path}.json"
    tries: list[tuple[str, dict[str, Any]]] = [(path, {"local_files_only": True})]
    tries += [(str(file), {}) for file in (noted, SHIPPED / f"{path}.json") if file is not None and file.is_file()]
    tries += [] if Path(path).is_dir() else [(path, {})]
    problem: Exception = FileNotFoundError(path)
    for place, where in tries:
        try:
            return AutoConfig.from_pretrained(place, **where, **options)
        except Exception as error:  # transformers raises anything over a config that does not hang together
            problem = error
    cure = f"download its config.json while online, or put it into {noted}" if noted else "check the folder"
    raise ContentError(f"model.path: the sizes of {path} are not known here: {first_line(problem)}; {cure}")
