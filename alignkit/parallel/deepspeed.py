"""Imports DeepSpeed, quietly."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from typing import Any


def import_deepspeed() -> Any:
    """DeepSpeed, with its log on stderr and reduced to errors, and without its shared-memory collectives.

    Those are compiled at the first start, and a rank that waits in them does not see that another one has died.
    """
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # it calls older names
    with contextlib.redirect_stdout(sys.stderr):
        import deepspeed
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
