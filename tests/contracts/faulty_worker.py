"""A vLLM engine process whose updates have the faults that a file names at the time: `faulty_worker.py FILE ...`.

head: the tied head is missed. layer: one more layer is. unread: what the kernels compute with is not read back.
"""

import sys
from pathlib import Path

from alignkit.engines.vllm import weights as vllm_weights
from alignkit.engines.vllm import worker as vllm_worker

MISSED = "model.layers.1.self_attn.o_proj.weight"
load, repack_head, stale_tensors = vllm_weights.load, vllm_weights.repack_head, vllm_weights.stale_tensors


def plant(file: Path) -> None:
    def has(fault):
        return fault in file.read_text().split()

    def load_most(weights, reload, apply):
        load({name: w for name, w in weights.items() if not (name == MISSED and has("layer"))}, reload, apply)

    def leave_head(model):
        return None if has("head") else repack_head(model)

    def trust(*given, **options):
        return ([], []) if has("unread") else stale_tensors(*given, **options)

    vllm_weights.load, vllm_weights.repack_head, vllm_weights.stale_tensors = load_most, leave_head, trust


if __name__ == "__main__":
    plant(Path(sys.argv.pop(1)))
    vllm_worker.main()
