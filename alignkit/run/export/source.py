"""What is exported: the final model of a run, or any model that can be trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import ContentError
from alignkit.models.adapter_folder import CONFIG
from alignkit.models.encoder import Encoder
from alignkit.models.load import load_policy, model_folder
from alignkit.models.weights import VALUE_HEAD
from alignkit.recipe.schema import Model
from alignkit.run_folder.run_folder import RECIPE


@dataclass(frozen=True, kw_only=True)
class Source:
    """folder: of the model. run: whose final model it is; None of another model. name: of what is written."""

    folder: Path
    run: Path | None
    name: str

    @classmethod
    def find(cls, path: str) -> Source:
        """The source that a run folder, a model's folder or a model's name stands for.

        Raises ContentError when there is none, the run has no final model yet, or it is a reward model.
        """
        given = Path(path).expanduser()
        run = given if (given / RECIPE).is_file() else given.parent if (given.parent / RECIPE).is_file() else None
        if run is not None and run == given:
            if not (run / "final" / "config.json").is_file():
                raise ContentError(f"{run}: the run has no final model yet; end it with `alignkit train ... --resume`")
            source = cls(folder=run / "final", run=run, name=run.resolve().name)
        elif (given / CONFIG).is_file():
            source = cls(folder=given, run=run, name=given.resolve().name)
        else:
            found = model_folder(path)
            source = cls(folder=found, run=run, name=run.resolve().name if run else given.resolve().name)
        if (source.folder / f"{VALUE_HEAD}.safetensors").is_file():
            raise ContentError(f"{source.folder} is a reward model; only models that say words are exported")
        return source

    def load(self) -> tuple[Any, Any]:
        """The model in float32, without an adapter, and its tokenizer. Raises ContentError, also for an encoder."""
        model, tokenizer = load_policy(Model(path=str(self.folder)), seed=0)
        if isinstance(model, Encoder):
            raise ContentError(f"{self.folder} is an encoder; only models that say words are exported")
        return model.eval(), tokenizer

    @property
    def stored(self) -> str:
        """The number format of the stored weights, as its config says: float32, float16 or bfloat16."""
        file = self.folder / "config.json"
        config = json.loads(file.read_text()) if file.is_file() else {}
        found = config.get("dtype") or config.get("torch_dtype")
        return found if found in ("float16", "bfloat16") else "float32"

    @property
    def quantization(self) -> str | None:
        """How the run's recipe held the base of its adapter (`model.quantization`)."""
        if self.run is None:
            return None
        return (json.loads((self.run / RECIPE).read_text()).get("model") or {}).get("quantization")

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter that belongs to it."""
        return next((place for place in (self.folder, self.folder / "adapter") if (place / CONFIG).is_file()), None)
