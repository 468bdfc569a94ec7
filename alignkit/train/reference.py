"""The frozen reference model: what it says of a batch, computed once for data that comes again each epoch."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from alignkit.models.forward import Forward
from alignkit.models.weights import whole
from alignkit.train.step import Step
from alignkit.types.batch import Batch


@dataclass(kw_only=True)
class Reference:
    """The reference's log-probs of a batch, from `file` where it has said them before.

    forward: by the same path as the policy's, or rounding in bfloat16 would look like a distance between the two.
    file: an SQLite database that the first rank reads and writes; None for sampled data, which never comes again. A
    step's new log-probs are in it before the step trains, in one transaction: a resumed run reads what the killed one
    computed, to the bit. identity: digest of the model's weights; None: of those of `forward`. report: is told once
    when the file cannot be used; training goes on without it.
    """

    forward: Forward
    file: Path | None = None
    report: Callable[[str], None] = print
    identity: str | None = None
    _memory: Memory | None = field(default=None, init=False)
    _broken: bool = field(default=False, init=False)

    def read(self, batch: Batch, step: Step) -> Tensor:
        """(token) log-probs under the reference; every rank gets all of them."""
        self.forward.verify(batch, temperature=step.temperature)
        if self.file is None:
            return step.read(batch, self.forward, "logprobs")
        found = step.group.from_first(self._recall(batch, step.temperature) if step.group.first else None)
        missing = [sequence for sequence in range(batch.num_sequences) if sequence not in found]
        column = torch.zeros(batch.num_tokens)
        for sequence, values in found.items():
            column[batch.segment == sequence] = values
        if missing:
            rest = batch.select(missing)
            said = step.read(rest, self.forward, "logprobs")
            column[batch.token_index(missing)] = said
            if step.group.first:
                self._keep(rest, said, step.temperature)
        return column

    def _recall(self, batch: Batch, temperature: float) -> dict[int, Tensor]:
        """Sequence number -> its log-probs, for the sequences in the file."""
        if self._broken or self.file is None:
            return {}
        try:
            self.identity = self.identity or fingerprint(self.forward.model)
            self._memory = self._memory or Memory(self.file, f"{self.identity} {self.forward.dtype}")
            known = self._memory.find(contents(batch, temperature))
        except sqlite3.Error as error:
            self._do_without(error)
            return {}
        return {sequence: values for sequence, values in enumerate(known) if values is not None}

    def _keep(self, batch: Batch, logprobs: Tensor, temperature: float) -> None:
        if self._broken or self._memory is None:
            return
        own = [logprobs[batch.segment == sequence] for sequence in range(batch.num_sequences)]
        try:
            self._memory.add(zip(contents(batch, temperature), own, strict=True))
        except sqlite3.Error as error:
            self._do_without(error)

    def _do_without(self, error: sqlite3.Error) -> None:
        self._broken = True
        self.report(
            f"{self.file}: the reference's log-probs cannot be kept there ({error}); each epoch computes them again, "
            "and a resumed run may differ in the last bit"
        )


class Memory:
    """Log-probs by what they are of: model, dtype, temperature, tokens, and which of these are actions."""

    def __init__(self, file: Path, model: str):
        self._model = model
        self._database = sqlite3.connect(file)
        with self._database:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS logprobs (key BLOB PRIMARY KEY, said BLOB) WITHOUT ROWID"
            )

    def find(self, sequences: Sequence[bytes]) -> list[Tensor | None]:
        """The log-probs of each sequence, float32; None for those that were never added."""
        query = "SELECT said FROM logprobs WHERE key = ?"
        rows = [self._database.execute(query, (self._key(each),)).fetchone() for each in sequences]
        return [None if row is None else torch.frombuffer(bytearray(row[0]), dtype=torch.float32) for row in rows]

    def add(self, said: Iterable[tuple[bytes, Tensor]]) -> None:
        """Keeps all of them or, if the process dies meanwhile, none; what is there already stays as it is."""
        rows = [(self._key(each), values.float().contiguous().numpy().tobytes()) for each, values in said]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO logprobs VALUES (?, ?)", rows)

    def _key(self, content: bytes) -> bytes:
        return hashlib.blake2b(self._model.encode() + b"\0" + content, digest_size=20).digest()


def contents(batch: Batch, temperature: float) -> list[bytes]:
    """What decides a model's log-probs of each sequence, as bytes."""
    rows = torch.stack([batch.tokens, batch.action_mask.long()])
    result = []
    for block in batch.blocks:
        begin = block.start + block.prompt
        for length in block.lengths:
            whole = torch.cat(
                [rows[:, block.start : block.start + block.prompt], rows[:, begin : begin + length]], dim=1
            )
            result.append(f"{temperature!r} {block.prompt} ".encode() + whole.numpy().tobytes())
            begin += length
    return result


def fingerprint(model: nn.Module, *, adapter: bool = True) -> str:
    """Hex digest of all weights, names and shapes included. adapter: also of what peft has added.

    Of a model whose weights are cut one is whole at a time; all ranks call it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict(keep_vars=True).items()):
        if not adapter and (".lora_" in name or ".modules_to_save." in name):
            continue
        with whole([weight]):
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
