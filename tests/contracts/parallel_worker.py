"""A vLLM engine process under tensor parallelism whose workers show what they hold, and have faults that a file names.

`parallel_worker.py FILE ...`: the file has `FAULT RANK` at the time of an update. moved: one number of the worker's
share is changed after it was loaded. shifted: it loads rows of a matrix that lie one further down. untold: it hears
nothing of the update. dies: it is killed in the middle of loading.
"""

import os
import sys
from typing import Any

from alignkit.engines.vllm import worker as vllm_worker


class ShownWorker(vllm_worker.EngineWorker):
    def show(self) -> dict[str, Any]:
        return {"workers": self._llm.collective_rpc("show")}

    def processes(self) -> dict[str, Any]:
        return {"processes": self._llm.collective_rpc("process")}


if __name__ == "__main__":
    os.environ["ALIGNKIT_TEST_FAULTS"] = sys.argv.pop(1)
    vllm_worker.WORKER, vllm_worker.EngineWorker = "tests.contracts.shown_sink.ShownSink", ShownWorker
    vllm_worker.main()
