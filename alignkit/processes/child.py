"""A process that is talked to and can be killed: the engine's and the rewards' workers alike."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from alignkit.processes.channel import Channel
from alignkit.processes.session import Stream, kill_session, start_session


@dataclass(eq=False)
class Child:
    """A process in a session of its own, and this side's end of the channel to it."""

    process: subprocess.Popen
    channel: Channel

    @classmethod
    def start(
        cls,
        command: Callable[[int], Sequence[str]],
        *,
        environment: Mapping[str, str],
        handed: Sequence[int] = (),
        output: Stream = subprocess.DEVNULL,
        largest: int | None = None,
    ) -> Child:
        """command: what to start, given the descriptor of the child's end. handed: further descriptors that it gets.

        output: where what it prints goes. largest: bytes of a message from it. Raises OSError when it does not start.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = start_session(
                command(theirs.fileno()),
                environment=environment,
                handed=[theirs.fileno(), *handed],
                output=output,
                errors=output,
            )
        return cls(process=process, channel=Channel(ours, largest=largest))

    def kill(self, *, family: bool = False) -> int:
        """Closes the channel, kills the session and returns its exit code. family: also what left the session."""
        self.channel.close()
        return kill_session(self.process, family=family)
