"""The replica servers of a run: they register themselves, pull the weights, and may come and go."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from alignkit.engines.fleet import Replica
from alignkit.engines.servers.description import Description
from alignkit.engines.servers.served import ServedReplica
from alignkit.errors import EngineError
from alignkit.weights.digest import digest
from alignkit.weights.sender import Sender
from alignkit.weights.shared_weights import Table, map_tensors

LOG = logging.getLogger("alignkit.fleet")
LOOK_S = 0.2


class Changed(Exception):
    """What was asked for is of another version than the one that lies ready."""


class Registry:
    """Fulfils engines.fleet.Replicas. description: what a replica starts with. sender: where the weights lie, of
    `version` at first. token, ca_file: for asking the servers.

    Its routes (app.py) call it from another thread.
    """

    def __init__(
        self, description: Description, sender: Sender, *, version: int, token: str, ca_file: str | None = None
    ):
        self.description, self.run = description, secrets.token_hex(8)
        self._sender, self._token, self._ca_file = sender, token, ca_file
        self._published: tuple[int | None, int] = version, sender.memory.writes
        self._lock, self._digesting = threading.Lock(), threading.Lock()
        self._replicas: dict[str, ServedReplica] = {}
        self._digests: tuple[int, list[int]] | None = None
        self._closers: list[Callable[[], None]] = []

    @property
    def version(self) -> int | None:
        """Of the weights that lie ready; None while they are being changed, by the fleet or by ranks that write before
        the fleet is told."""
        version, writes = self._published
        return version if writes == self._sender.memory.writes else None

    def present(self) -> Sequence[Replica]:
        """By their addresses, so that the same servers share out a call alike."""
        with self._lock:
            return [self._replicas[url] for url in sorted(self._replicas)]

    def publish(self, version: int | None) -> None:
        self._published, self._digests = (version, self._sender.memory.writes), None

    def lost(self, replica: Replica, error: Exception) -> None:
        replica.close()
        with self._lock:
            self._replicas = {url: one for url, one in self._replicas.items() if one is not replica}
            left = len(self._replicas)
        LOG.warning("%s is gone (%s); the run goes on with %d", replica.name, error, left)

    def close(self) -> None:
        for replica in self.present():
            replica.close()
        for closer in self._closers:
            closer()

    def close_too(self, closer: Callable[[], None]) -> None:
        """Called when the run ends."""
        self._closers.append(closer)

    def wait_for(self, count: int, patience_s: float) -> None:
        """Waits until so many have come. Raises EngineError when they have not."""
        until = time.monotonic() + patience_s
        while (there := len(self.present())) < count:
            if time.monotonic() > until:
                raise EngineError(
                    f"fleet: {there} of {count} replica servers have registered within {patience_s:g} s; start "
                    "`alignkit replica URL` for each, with the same ALIGNKIT_TOKEN, or raise engine.startup_s"
                )
            time.sleep(LOOK_S)

    def register(self, url: str, *, instance: str, fingerprint: str, run: str, version: int) -> dict[str, Any]:
        """A server says that it is there, what it holds, and does so again and again. What it is told: the run, and the
        version that it should hold. Raises EngineError for one that was started for something else."""
        if fingerprint != self.description.fingerprint:
            raise EngineError("this run trains another model, or with other settings: start the replica anew")
        holds = version if run == self.run else -1
        with self._lock:
            known = self._replicas.get(url)
            if known is None or known.closed or known.instance != instance:
                self._replicas[url] = ServedReplica(
                    url, instance=instance, run=self.run, version=holds, token=self._token, ca_file=self._ca_file
                )
            else:
                known.policy_version = max(known.policy_version, holds)
        return {"run": self.run, "version": self.version}

    def digests(self, version: int) -> list[int]:
        """Of all tensors of a version, in the table's order. Raises Changed."""
        with self._digesting:
            if self._digests is None or self._digests[0] != version:
                before = self._check(version)
                lying = map_tensors(self._sender.descriptor, Table.from_json(self.description.table))
                digests = [digest(tensor).value for tensor in lying.values()]
                self._check(version, since=before)
                self._digests = version, digests
            return self._digests[1]

    def read(self, version: int, begin: int, end: int) -> bytes:
        """Bytes of the memory of the weights. Raises Changed."""
        before = self._check(version)
        content = os.pread(self._sender.descriptor, end - begin, begin)
        self._check(version, since=before)
        return content

    def _check(self, version: int, *, since: int | None = None) -> int:
        """How often the memory was begun to be written; it must not have been again since. Raises Changed."""
        writes = self._sender.memory.writes
        if version != self.version or since not in (None, writes):
            raise Changed(f"version {version} does not lie ready; {self.version} does")
        return writes
