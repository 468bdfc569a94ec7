"""Answers that were paid for once, kept by a hash of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

from alignkit.errors import StorageError
from alignkit.rewards.serve.wire import dump
from alignkit.types.files import guarded, make_folder


class AnswerCache:
    """The last `size` answers in memory, and all of them in `folder` if one is given: then a second run asks nothing.

    Keys are hashes of JSON values, answers are JSON values. A file that cannot be read counts as absent;
    where one cannot be written, a warning says so once and the folder is given up.
    """

    def __init__(self, size: int, folder: str | Path | None = None):
        self._size = size
        self._folder = Path(folder) if folder else None
        self._answers: OrderedDict[str, Any] = OrderedDict()

    @staticmethod
    def key(*content: Any) -> str:
        return hashlib.blake2b(dump(content), digest_size=20).hexdigest()

    def get(self, key: str) -> Any | None:
        if key in self._answers:
            self._answers.move_to_end(key)
            return self._answers[key]
        if self._folder is None:
            return None
        try:
            answer = json.loads((self._folder / f"{key}.json").read_bytes())
        except (OSError, ValueError):
            return None
        self._remember(key, answer)
        return answer

    def put(self, key: str, answer: Any) -> None:
        self._remember(key, answer)
        if self._folder is None:
            return
        try:
            make_folder(self._folder)
            self._write(self._folder / f"{key}.json", dump(answer))
        except StorageError as error:  # an answer that cannot be kept is an answer all the same
            warnings.warn(f"{error}; answers of this run are remembered, not kept", stacklevel=2)
            self._folder = None

    def _write(self, path: Path, answer: bytes) -> None:
        """Under a name of this process first: workers share the folder and may write the same answer at once."""
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
        with guarded(path):
            temporary.write_bytes(answer)
            temporary.replace(path)

    def _remember(self, key: str, answer: Any) -> None:
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while len(self._answers) > self._size:
            self._answers.popitem(last=False)
