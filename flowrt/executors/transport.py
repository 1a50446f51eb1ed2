"""Transport protocols: the interface of a kind of worker (processes, Ray actors). Everything else is shared.

An executor of remote workers implements `Launcher` and `Transport`, and gives the launcher to a `RemotePool`. In the
worker, a `flowrt.remote.runner.Runner` takes the messages that `Transport.send` sent and runs the attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from flowrt.errors import ExecutorFailedError

__all__ = ["Death", "Launcher", "Receiver", "Transport"]


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended.

    Args:
        how: The signal or exit status, such as "SIGKILL" or "exit status 3".
        running: Number of the plain-function item that it ran, 0 for none, None if that is not known.
        outcomes: Outcomes that the worker had not sent: number, status, service time, time in the inbox, value.
    """

    how: str
    running: int | None = None
    outcomes: Sequence[tuple[int, int, int, int, Any]] = ()


class Receiver(Protocol):
    """Receiver of one worker's messages. Called on the loop's thread."""

    @property
    def waiting(self) -> bool:
        """True if a message from the worker is due."""

    def received(self, parts: Sequence[Any]) -> None:
        """Receive one message as its parts."""

    def printed(self, line: str) -> None:
        """Receive a line that the worker printed to its standard error."""

    def lost(self, death: Death) -> None:
        """Handle the end of the worker, after its last message."""

    def failed(self, error: ExecutorFailedError) -> None:
        """Handle the loss of all workers: none can be reached or started any more."""


class Transport(Protocol):
    """Connection to one worker. All methods but `stop` and `close` are called on the loop's thread.

    Attributes:
        pid: The worker's process id, or 0 while it is unknown.
        host: The worker's host.
        most_bytes: Messages of items are cut at about this size; None for no limit.
    """

    pid: int
    host: str
    most_bytes: int | None

    def attach(self, loop: asyncio.AbstractEventLoop, receiver: Receiver) -> None:
        """Deliver to a receiver on this loop from now on."""

    def detach(self) -> None:
        """Detach from the loop, which may then be closed; the worker stays idle."""

    def send(self, parts: Sequence[Any]) -> None:
        """Send one message, as `frames.make_frame` makes it."""

    def running(self) -> int | None:
        """Number of the plain-function item that the worker runs now, 0 for none, None if that is not known."""

    def kill(self) -> None:
        """End the worker at once, even during an attempt; `Receiver.lost` is called then."""

    def stop(self) -> None:
        """Ask a worker that has left the loop to end after its exit handlers. Any thread may call it."""

    def close(self, timeout_s: float) -> None:
        """Block until a stopped worker has ended, for at most `timeout_s` seconds; then kill it. Any thread."""


class Launcher(Protocol):
    """Starts workers."""

    def launch(self, name: str) -> Future[Transport]:
        """Start a worker and return a future of its transport; the worker sends READY once it has read HELLO.

        The future belongs to no loop: a batch may end, and its loop be closed, before the worker has started.

        Args:
            name: The worker's slot, such as "w0".
        """
