"""One worker process of vLLM's, which takes its own share of the weights out of the host's memory and reads it back.

vLLM imports this by name (`worker_cls`) in every process that computes: in the engine's own where there is one worker,
in processes of their own under tensor parallelism. Between them goes what JSON can say; weights lie in the memory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.platforms import current_platform

from alignkit.engines.vllm import adapter, weights
from alignkit.engines.vllm.arguments import LOADER
from alignkit.engines.vllm.copies import Loaded, Recorder
from alignkit.engines.vllm.quirks.rotary import rotate_whole_queries
from alignkit.processes.family import end_with
from alignkit.weights.digest import Digest
from alignkit.weights.shared_weights import Table, map_tensors, pin, stored_weights


def _workers_of_platform() -> Any:
    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_worker import CPUWorker

        return CPUWorker
    from vllm.v1.worker.gpu_worker import Worker

    return Worker


class Sink(_workers_of_platform()):
    """vLLM's worker of this platform; `model_loader_extra_config` has the model's folder and what the Sender tells."""

    def __init__(self, *given: Any, **named: Any):
        parent = multiprocessing.parent_process()
        if parent is not None:  # vLLM's own watch ends a worker between two calls only
            end_with(parent.pid or 0, signal.SIGKILL)
        super().__init__(*given, **named)
        told = self.vllm_config.load_config.model_loader_extra_config
        self._folder, self._path, self._memory = Path(told["folder"]), told["path"], told["memory"]
        self._table, self._adapter = Table.from_json(told["table"]), Table.from_json(told["adapter"])
        self._weights: dict[str, Any] | None = None
        self._matrices: dict[str, Any] | None = None
        self._loaded: dict[str, Loaded] = {}
        self._wanted: dict[str, Any] = {}
        self._unread: frozenset[str] = frozenset()

    def load_model(self, **given: Any) -> None:
        """As vLLM does, but that weights may come out of the memory, and that what its loaders take is recorded."""
        register_model_loader(LOADER)(self._loader())
        super().load_model(**given)
        if current_platform.is_cpu():
            rotate_whole_queries(self._model)
        self._unread = weights.unreadable(self._model, self._loaded, self._begins_with)

    def wanted(self) -> dict[str, Any]:
        """Which boxes of the checkpoint this worker has."""
        return self._wanted

    def take(self, version: int) -> dict[str, Any]:
        """Loads its share of what lies in the memory, and compares."""
        if self._weights is None:
            self._weights = self._mapped(self._table)
            if not current_platform.is_cpu():
                pin(self._weights, self._table)
        weights.load(self._weights, self._reload, self.apply_model)
        return self._compared(self._weights, version)

    def compare(self, version: int, shapes: dict[str, list[int]], digests: dict[str, int]) -> dict[str, Any]:
        """Compares what it holds, by digests of whole tensors."""
        weights.repack(self._model)
        return self._compared({name: Digest(tuple(shapes[name]), digests[name]) for name in digests}, version)

    def homeless(self) -> list[str]:
        """Layers of the adapter that have no place in the model."""
        return adapter.homeless(self.model_runner.lora_manager, list(self._adapter_matrices()))

    def put_adapter(self, version: int, number: int) -> dict[str, Any]:
        """Replaces the adapter by the one in the memory, under this number, and compares."""
        stale = adapter.put(self.model_runner.lora_manager, self._adapter_matrices(), number)
        return {"version": version, "stale": stale, "unknown": []}

    @property
    def _model(self) -> Any:
        return self.model_runner.get_model()

    def _reload(self, pairs: Any) -> None:
        self.reload_weights(weights_iterator=pairs)

    def _compared(self, sent: Any, version: int) -> dict[str, Any]:
        stale, unknown = weights.stale_tensors(self._model, sent, self._loaded, version=version, unread=self._unread)
        return {"version": version, "stale": stale, "unknown": unknown}

    def _mapped(self, table: Table) -> dict[str, torch.Tensor]:
        descriptor = os.open(self._path, os.O_RDWR)
        try:
            return map_tensors(descriptor, table)
        finally:
            os.close(descriptor)

    def _adapter_matrices(self) -> dict[str, torch.Tensor]:
        if self._matrices is None:
            self._matrices = self._mapped(self._adapter)
        return self._matrices

    def _begins_with(self) -> dict[str, torch.Tensor]:
        """Read at the start only: where weights are lent, the memory is gone afterwards."""
        return self._mapped(self._table) if self._memory else stored_weights(self._folder)

    def _loader(self) -> type[DefaultModelLoader]:
        sink, recorder = self, Recorder()

        class Loader(DefaultModelLoader):
            """vLLM's own, out of files or of the memory."""

            def __init__(self, load_config: Any):
                super().__init__(replace(load_config, load_format="auto", model_loader_extra_config={}))

            def download_model(self, model_config: Any) -> None:
                if not sink._memory:
                    super().download_model(model_config)

            def load_weights(self, model: Any, model_config: Any) -> None:
                with recorder:
                    super().load_weights(model, model_config)
                sink._loaded, sink._wanted = recorder.loaded(model), recorder.wanted()

            def get_all_weights(self, model_config: Any, model: Any) -> Generator[tuple[str, torch.Tensor]]:
                pairs = sink._begins_with().items() if sink._memory else super().get_all_weights(model_config, model)
                yield from recorder.named(pairs)

        return Loader
