"""A vLLM engine process that holds one number of an adapter otherwise while the file of its first argument says so."""

import sys
from pathlib import Path

import torch

from alignkit.engines.vllm import adapter
from alignkit.engines.vllm import worker as vllm_worker

stale_matrices = adapter.stale_matrices


def plant(file: Path) -> None:
    def spoiled(manager, sent):
        if file.read_text():
            module = manager.modules["model.layers.1.self_attn.qkv_proj"]
            held = module.lora_b_stacked[2][0, 0]
            held[3, 1] = torch.nextafter(held[3, 1], torch.tensor(9.0))
        return stale_matrices(manager, sent)

    adapter.stale_matrices = spoiled


if __name__ == "__main__":
    plant(Path(sys.argv.pop(1)))
    vllm_worker.main()
