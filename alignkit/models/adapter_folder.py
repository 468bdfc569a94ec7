"""LoRA adapters that somebody saved: found by their folder, put on their base, merged into it or gone on with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import ContentError, RecipeError, on_one_line
from alignkit.models.encoder import Encoder
from alignkit.models.lora import add_lora, quiet
from alignkit.models.merge import merge

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from alignkit.recipe.schema import Lora

EMBEDDING = r"\.(embed_tokens|wte)\.(base_layer\.)?weight$"  # whose number of rows is the vocabulary's
ROUNDING = 0.02  # of copies in bfloat16
PROBE, TOLERANCE = 16, 1e-3  # tokens that the merged model is tried on; rounding was seen to be 1e-6
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MERGE = "or name the model that it was merged into"


@dataclass(frozen=True, kw_only=True)
class AdapterFolder:
    """A folder with an adapter. settings: its adapter_config.json."""

    folder: Path
    settings: dict[str, Any]

    @classmethod
    def find(cls, path: str, revision: str | None = None) -> AdapterFolder | None:
        """The adapter that a folder or hub id holds; None where it holds a whole model. Raises ContentError for an
        adapter that is not LoRA or cannot be read."""
        folder = Path(path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download
            from transformers.utils.peft_utils import find_adapter_config_file

            if find_adapter_config_file(path, revision=revision) is None:
                return None
            wanted = ["adapter_*", "*.json", "*.jinja", "*.model", "tokenizer*"]
            folder = Path(snapshot_download(path, revision=revision, allow_patterns=wanted))
        if not (folder / CONFIG).is_file():
            return None
        try:
            settings = json.loads((folder / CONFIG).read_text())
            kind = settings["peft_type"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ContentError(
                f"model.path: {folder / CONFIG} cannot be read ({error}); save the adapter again"
            ) from error
        if kind != "LORA":
            raise ContentError(
                f"model.path: {folder} is an adapter of peft's kind {kind}, not LoRA; merge it into its base"
            )
        return cls(folder=folder, settings=settings)

    def tokenizer(self, beside: Path | None) -> str:
        """Where its tokenizer is: in the folder itself, or with its base."""
        return str(self.folder) if (self.folder / "tokenizer_config.json").is_file() else self.base(beside)

    def base(self, beside: Path | None) -> str:
        """Folder or hub id of the model that it was made for; a relative path is looked up from the adapter's folder,
        the recipe's and the present one. Raises ContentError when it is nowhere."""
        named = self.settings.get("base_model_name_or_path")
        where = f"model.path: {self.folder} is a LoRA adapter"
        if not named:
            cure = "write its path or name there (`base_model_name_or_path`)"
            raise ContentError(f"{where}, and its {CONFIG} does not say of which base model; {cure}, {MERGE}")
        path = Path(named).expanduser()
        places = [path] if path.is_absolute() else [at / path for at in (self.folder, beside, Path()) if at is not None]
        for place in places:
            if place.is_dir():
                if (place / CONFIG).is_file():
                    raise ContentError(
                        f"{where}, and its base {place} is an adapter, too; merge that one first, {MERGE}"
                    )
                return str(place)
        if named.count("/") == 1 and not named.startswith((".", "/", "~")):
            return named  # ORG/NAME
        looked = ", ".join(str(place) for place in places)
        cure = f"correct `base_model_name_or_path` in its {CONFIG}"
        raise ContentError(f"{where} whose base model '{named}' is not there (looked for {looked}); {cure}, {MERGE}")

    def merged(self, base: Any) -> Module:
        """The base with the adapter's work in its weights. Raises ContentError when it is another model's adapter."""
        from peft import LoraConfig, get_peft_model

        if isinstance(base, Encoder):
            return Encoder(self.merged(base.encoder))
        state = self._weights()
        self._check_copies(state, base)
        rows = _rows(state)
        if rows is not None and rows != base.get_input_embeddings().weight.shape[0]:
            base.resize_token_embeddings(rows, mean_resizing=False)
        try:
            config: Any = LoraConfig.from_pretrained(str(self.folder))
            config.lora_dropout, config.inference_mode = 0.0, False
            with quiet():
                model = get_peft_model(base, config)
        except (ValueError, TypeError) as error:
            raise self._misfit(on_one_line(error)) from error
        self._put(model, state)
        return self._checked_merge(model)

    def _checked_merge(self, model: Any) -> Module:
        """Merges what can be merged: of some of peft's variants (biases of LoRA's own) weights are not all."""
        import torch

        ids = torch.arange(min(PROBE, model.get_input_embeddings().weight.shape[0]))[None]
        with torch.no_grad():
            adapted = model.eval()(input_ids=ids)[0]
            merged: Any = merge(model).eval()
            gap = (merged(input_ids=ids)[0] - adapted).abs().max()
        if not gap <= TOLERANCE * max(1.0, float(adapted.abs().max())):
            problem = f"merged into its base it computes something else (by up to {gap:.2g})"
            raise ContentError(
                f"model.path: the adapter in {self.folder} cannot be merged: {problem}; merge it by peft"
            )
        return merged

    def continued(self, base: Any, lora: Lora, seed: int) -> Any:
        """The base with this adapter, to be trained further; RecipeError when the recipe's adapter is another."""
        cure = "give the adapter's own settings to go on with it, or leave `lora` out to train the merged model"
        wanted = {
            "rank": (lora.rank, self.settings.get("r")),
            "alpha": (lora.alpha, self.settings.get("lora_alpha")),
            "rslora": (lora.rslora, bool(self.settings.get("use_rslora"))),
            "dora": (lora.dora, bool(self.settings.get("use_dora"))),
        }
        differing = [f"{name} {own} here and {its} there" for name, (own, its) in wanted.items() if own != its]
        odd = [name for name in ("rank_pattern", "alpha_pattern") if self.settings.get(name)]
        if self.settings.get("bias", "none") != "none":
            odd.append("bias")
        if differing or odd:
            differing += [f"{name}, which a recipe cannot say" for name in odd]
            raise RecipeError(f"model.lora: not the adapter in {self.folder}: {', '.join(differing)}; {cure}")
        state = self._weights()
        self._check_copies(state, base.encoder if isinstance(base, Encoder) else base)
        rows, vocabulary = _rows(state), base.get_input_embeddings().weight.shape[0]
        if rows not in (None, vocabulary):
            problem = f"it brings a vocabulary of {rows} where its base has {vocabulary}"
            raise RecipeError(f"model.lora: the adapter in {self.folder} cannot be gone on with: {problem}; {cure}")
        if isinstance(base, Encoder):
            state = {name.replace("base_model.model.", "base_model.model.encoder.", 1): w for name, w in state.items()}
        model = add_lora(base, lora, seed)
        own = set(_own(model))
        state = {name: tensor for name, tensor in state.items() if name in own or "lora_" in name}
        if own != set(state):
            first = min(own ^ set(state))
            has = "the recipe's alone" if first in own else "the folder's alone"
            problem = f"{len(own ^ set(state))} of their tensors differ, first {first} ({has} has it)"
            raise RecipeError(f"model.lora: not the adapter in {self.folder}: {problem}; {cure}")
        self._put(model, state)
        return model

    def _weights(self) -> dict[str, Tensor]:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self.folder / WEIGHTS
        if not file.is_file():
            raise ContentError(
                f"model.path: {self.folder} has no {WEIGHTS} (other formats can hold code); save it again"
            )
        try:
            state = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ContentError(f"model.path: {file} is damaged ({error}); fetch or save it again") from error
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise ContentError(f"model.path: {file}: {name} holds numbers that are not finite; save it again")
        return {name: tensor.float() for name, tensor in state.items()}

    def _check_copies(self, state: dict[str, Tensor], base: Any) -> None:
        """peft keeps a copy of embeddings that are adapted or have got rows: their first rows must be the base's."""
        bases = dict(base.named_parameters(remove_duplicate=False))
        whole = self.settings.get("modules_to_save") or ()
        for name, tensor in state.items():
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            own = bases.get(plain) if name.endswith(".weight") else None
            if own is None or any(f".{module}." in name for module in whole):
                continue
            if tensor.shape[1:] != own.shape[1:] or len(tensor) < len(own):
                raise self._misfit(f"{plain} is {tuple(tensor.shape)}, which would have to be {tuple(own.shape)}")
            gap = float((tensor[: len(own)] - own.detach()).abs().max())
            if gap > ROUNDING * float(own.detach().abs().max()):
                raise self._misfit(f"its copy of {plain} is not the base's (they differ by up to {gap:.2g})")

    def _put(self, model: Any, state: dict[str, Tensor]) -> None:
        from peft import set_peft_model_state_dict

        own = _own(model)
        lacking = sorted(own.keys() - state.keys())
        if lacking:
            raise ContentError(f"model.path: {self.folder} lacks {len(lacking)} of its tensors, first {lacking[0]}")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                sizes = f"{tuple(state[name].shape)}, which would have to be {tuple(tensor.shape)}"
                raise self._misfit(f"{name.removeprefix('base_model.model.')} is {sizes}")
        with quiet():
            result: Any = set_peft_model_state_dict(model, state)
        if strange := result.unexpected_keys:
            raise self._misfit(f"{len(strange)} tensors have no place in it, first {strange[0]}")

    def _misfit(self, why: str) -> ContentError:
        base = self.settings.get("base_model_name_or_path")
        return ContentError(
            f"model.path: the adapter in {self.folder} does not fit its base '{base}': {why}; "
            f"name the base it was trained on in its {CONFIG}, {MERGE}"
        )


def _own(model: Any) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    with quiet():
        return get_peft_model_state_dict(model, save_embedding_layers=False)


def _rows(state: dict[str, Tensor]) -> int | None:
    """Tokens of the vocabulary that the adapter brings a copy of the embedding for; None where it brings none."""
    return next((len(tensor) for name, tensor in state.items() if re.search(EMBEDDING, name)), None)
