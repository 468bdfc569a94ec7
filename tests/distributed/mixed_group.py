"""What a rank does in test_mixed_group.py: joins the group of a GPU machine, with fake kernels in NCCL's place.

`python -m tests.distributed.mixed_group BACKENDS FOLDER SECONDS`. The fake group takes CUDA tensors only and answers
nothing; the second rank comes SECONDS late to what both do together.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.testing._internal.distributed.fake_pg
from torch import distributed

from alignkit.errors import first_line
from alignkit.parallel import group as module


def main(backends: str, folder: Path, seconds: float) -> None:
    devices: list[int] = []
    torch.cuda.is_available = lambda: True
    torch.cuda.set_device = devices.append
    module.BACKENDS["cuda"] = backends
    module.COLLECTIVE = timedelta(seconds=2)
    group = module.join_group()
    said = {"devices": devices, "type": type(distributed.group.WORLD._get_backend(torch.device("cuda"))).__name__}
    said["default group"] = _tried(lambda: distributed.all_reduce(torch.ones(1)))
    if group.rank:
        time.sleep(seconds)
    said["sum"] = group.sum(torch.tensor([1.0 + group.rank, 10.0], dtype=torch.float64)).tolist()
    said["first"] = group.from_first({"from": group.rank} if group.first else None)
    said["all"] = group.gather(f"rank {group.rank}")
    group.barrier()
    (folder / f"rank-{group.rank}.json").write_text(json.dumps(said))
    group.barrier()


def _tried(work: object) -> str:
    try:
        work()
    except RuntimeError as error:
        return first_line(error)
    return "done"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)  # a fake group has nothing to tear down
