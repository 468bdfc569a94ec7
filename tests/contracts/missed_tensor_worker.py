"""A vLLM engine process whose updates miss the checkpoint tensor named in $MISSED, for test_read_back_vllm.py."""

import os
from unittest import mock

from alignkit.engines.vllm import weights as vllm_weights
from alignkit.engines.vllm import worker as vllm_worker

load = vllm_weights.load


def load_most(weights, reload, apply):
    load({name: tensor for name, tensor in weights.items() if name != os.environ["MISSED"]}, reload, apply)


if __name__ == "__main__":
    with mock.patch.object(vllm_weights, "load", load_most):
        vllm_worker.main()
