"""A worker of vLLM's that shows what it holds, and has the fault that a file names: see parallel_worker.py."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from alignkit.engines.vllm.copies import held_tensors
from alignkit.engines.vllm.sink import Sink

FAULTS = "ALIGNKIT_TEST_FAULTS"  # of the environment: the file's path
MATRIX = "model.layers.1.self_attn.o_proj.weight"


class ShownSink(Sink):
    def take(self, version: int) -> dict[str, Any]:
        if self._fault() == "untold":
            return {"version": version - 1, "stale": [], "unknown": []}
        return super().take(version)

    def _fault(self) -> str:
        fault, _, rank = Path(os.environ[FAULTS]).read_text().partition(" ")
        return fault if rank == str(self.rank) else ""

    def _reload(self, pairs: Any) -> None:
        fault = self._fault()
        if fault == "dies":
            pairs = self._until_killed(pairs)
        if fault == "shifted":
            pairs = ((name, torch.roll(tensor, 1, 0) if name == MATRIX else tensor) for name, tensor in pairs)
        super()._reload(pairs)
        if fault == "moved":
            norm = self.model_runner.get_model().model.layers[1].input_layernorm.weight
            norm.data[3] = torch.nextafter(norm.data[3], torch.tensor(9.0))

    def _until_killed(self, pairs: Any) -> Any:
        for count, pair in enumerate(pairs):
            if count == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair

    def process(self) -> int:
        return os.getpid()

    def show(self) -> dict[str, Any]:
        """Of every tensor of the model what it holds, or what its kernel multiplies with, by name."""
        shown = {}
        for place, module in self.model_runner.get_model().named_modules():
            for kind, tensor in held_tensors(module).items():
                loaded = self._loaded.get(f"{place}.{kind}")
                if loaded is not None and not tensor.numel():
                    eye = torch.eye(loaded.shape[1], dtype=torch.float32)
                    tensor = module.quant_method.apply(module, eye, None).T
                if loaded is not None:
                    shown[f"{place}.{kind}"] = tensor.float().tolist()
        return shown
