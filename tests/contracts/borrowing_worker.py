"""A vLLM engine process that borrows by the stand-in of lending.py; $SPOILED names a tensor that arrives changed."""

import os
from unittest import mock

import torch
from vllm.distributed.weight_transfer import ipc_engine

from alignkit.engines.vllm import worker as vllm_worker
from alignkit.weights import handles
from tests.contracts import lending

update_info = handles.update_info


def spoiled(lent):
    """What came, but for one tensor, of which another one's memory is read."""
    told = update_info(lent)
    name = os.environ.get("SPOILED")
    if name:
        other = told["names"].index("model.layers.0.input_layernorm.weight")
        told["ipc_handles"][told["names"].index(name)] = told["ipc_handles"][other]
    return told


if __name__ == "__main__":
    with (
        mock.patch.object(ipc_engine, "rebuild_cuda_tensor", lending.rebuild_cuda_tensor),
        mock.patch.object(torch.cuda, "get_device_properties", return_value=lending.CARD),
        mock.patch.object(torch.accelerator, "synchronize"),
        mock.patch.object(handles, "update_info", spoiled),
    ):
        vllm_worker.main()
