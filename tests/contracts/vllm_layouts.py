"""Which boxes of a checkpoint vLLM's own layers and loaders take as each of N workers, asked of one process.

No weights are needed. `vllm_layouts.py FOLDER N ...`: of the config in FOLDER; names and shapes of its tensors come as
JSON on standard input. Prints, by N, of each worker what `Sink.wanted` says.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any
from unittest import mock

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model

from alignkit.engines.vllm.copies import Recorder


def layout(config: Any, shapes: dict[str, list[int]], rank: int, size: int) -> dict[str, Any]:
    group, recorder = parallel_state.get_tp_group(), Recorder()
    config.parallel_config.tensor_parallel_size = size
    config.compilation_config.static_forward_context.clear()
    with (
        mock.patch.multiple(group, world_size=size, rank_in_group=rank),
        set_current_vllm_config(config),
        torch.device("meta"),
    ):
        model = initialize_model(vllm_config=config, model_config=config.model_config)
        with recorder:
            model.load_weights(recorder.named((name, torch.empty(shape)) for name, shape in shapes.items()))
    return recorder.wanted()


def main(folder: str, sizes: list[str]) -> None:
    shapes = json.load(sys.stdin)
    config = EngineArgs(
        model=folder, skip_tokenizer_init=True, dtype="float32", enforce_eager=True
    ).create_engine_config()
    with set_current_vllm_config(config), tempfile.NamedTemporaryFile() as store:
        parallel_state.init_distributed_environment(1, 0, f"file://{store.name}", 0, "gloo")
        parallel_state.initialize_model_parallel(1, 1)
        print(json.dumps({n: [layout(config, shapes, rank, int(n)) for rank in range(int(n))] for n in sizes}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
