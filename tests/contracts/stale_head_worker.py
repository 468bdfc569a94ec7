"""A vLLM engine process with planted faults, for test_engines.py: an update misses the tied head and one layer."""

import sys
from contextlib import ExitStack
from unittest import mock

from alignkit.engines.vllm import weights as vllm_weights
from alignkit.engines.vllm import worker as vllm_worker

MISSED = "model.layers.1.self_attn.o_proj.weight"
load = vllm_weights.load


def load_most(weights, reload, apply):
    load({name: tensor for name, tensor in weights.items() if name != MISSED}, reload, apply)


if __name__ == "__main__":
    with ExitStack() as faults:
        faults.enter_context(mock.patch.object(vllm_weights, "repack_head", return_value=None))
        if "--no-readback" in sys.argv:
            sys.argv.remove("--no-readback")
            faults.enter_context(mock.patch.object(vllm_weights, "stale_modules", return_value=([], [])))
        else:
            faults.enter_context(mock.patch.object(vllm_weights, "load", load_most))
        vllm_worker.main()
