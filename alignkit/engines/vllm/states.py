"""Last hidden states of token sequences from vLLM's pooling runner: what a reward model's head reads."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from pathlib import Path

from alignkit.engines.vllm.arguments import Settings
from alignkit.engines.vllm.process import VllmProcess, environment
from alignkit.types.scratch import scratch


class VllmStates(VllmProcess):
    """A child that holds the layers of one causal language model and says its states.

    model_folder: a saved model; extra_files in it are not the model's and are kept from vLLM. max_model_len: longest
    sequence, in tokens. memory_gib: key-value cache on CPU; memory_fraction: share of the device on a GPU. threads: of
    the child, None: all cores it may use. startup_s, timeout_s: a child that has not answered by then is killed.
    Raises EngineError when vLLM is not installed or does not start.
    """

    def __init__(
        self,
        model_folder: Path,
        *,
        extra_files: Sequence[str],
        max_model_len: int,
        memory_gib: int = 2,
        memory_fraction: float = 0.45,
        threads: int | None = None,
        startup_s: float = 900.0,
        timeout_s: float = 3600.0,
    ):
        resources = contextlib.ExitStack()
        folder = resources.enter_context(scratch("states-"))
        weakref.finalize(self, resources.close)
        super().__init__(log_file=folder / "log", timeout_s=timeout_s)
        start = {
            "do": "states",
            "model_folder": str(_without(model_folder, extra_files, folder / "model")),
            "max_model_len": max_model_len,
            "settings": Settings(memory_fraction=memory_fraction).as_json(),
        }
        self._wait(self._start(start, environment(threads, memory_gib)), startup_s)

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """The state after the last token of each sequence, after the final norm."""
        return self._call({"do": "states", "sequences": [list(sequence) for sequence in sequences]})["states"]


def _without(folder: Path, extra_files: Sequence[str], links: Path) -> Path:
    """A folder of links to all files but some: vLLM takes every safetensors file that it finds for the model's."""
    links.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in extra_files:
            (links / file.name).symlink_to(file.resolve())
    return links
