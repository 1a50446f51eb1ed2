"""Workers that are Ray actors: messages travel in calls of one method, several of them in flight."""

from __future__ import annotations

import asyncio
import platform
import struct
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from flowrt._util.daemon_thread import run_in_daemon_thread
from flowrt.executors.frames import Frame, FrameReader, Kind, make_frame, on_the_wire
from flowrt.executors.outcome_memory import OutcomeMemory, read_outcomes
from flowrt.executors.ray_cluster import RayCluster
from flowrt.executors.stderr_file import read_lines
from flowrt.executors.transport import Death, Receiver, Transport

__all__ = ["RayLauncher", "RayTransport"]

_CALLS: Final = 3  # with one, messages would wait for the held call; more than three gain nothing
_LATER_S: Final = 0.001  # wait for further messages while a call is in flight
_EMPTY_S: Final = 0.0005  # until a call that only fetches
_LAST_S: Final = 0.1  # to wait for the last answer, which has come by now or never will
_MOST_BYTES: Final = 90_000  # of a call: Ray sends more than 100 KB through its object store, at twice the cost
_SENT: Final = struct.Struct("Q")  # in the memory: how much of standard error was sent
_MOST_HOW: Final = 300  # characters of Ray's reason


class RayLauncher:
    """Starts actors.

    Args:
        cluster: The cluster; the first worker connects to it.
    """

    def __init__(self, cluster: RayCluster) -> None:
        self._cluster = cluster

    def launch(self, name: str) -> Future[Transport]:
        """Start an actor in a thread of its own, since connecting and placing it may take long."""
        answer: Future[Transport] = Future()

        def start() -> None:
            try:
                actor, about = self._cluster.start_actor(name)
                answer.set_result(RayTransport(self._cluster, actor, *about))
            except BaseException as exc:  # raised where the future is read
                answer.set_exception(exc)

        threading.Thread(target=start, name=f"flowrt-worker-start-{name}", daemon=True).start()
        return answer


class RayTransport:
    """One actor; see `Transport`.

    Args:
        cluster: The actor's cluster.
        actor: The actor's handle.
        pid: The actor's process id.
        host: The actor's host.
        node_id: The actor's node in the cluster.
        file: File of the actor's shared memory, on its host.
        errors: File of the actor's standard error on its host; empty if it is not a file.
    """

    most_bytes: int | None = _MOST_BYTES

    def __init__(
        self, cluster: RayCluster, actor: Any, pid: int, host: str, node_id: str, file: str, errors: str
    ) -> None:
        self.pid = pid
        self.host = host
        self._cluster = cluster
        self._actor = actor
        self._exchange: Any = actor.exchange.remote
        self._file = file
        self._errors = errors
        self._node_id = node_id
        self._reader = FrameReader()
        self._unsent: deque[bytes] = deque()
        self._answers: deque[Any] = deque()  # ended calls that the loop has not seen
        self._calls = 0
        self._made = 0
        self._running_item = 0
        self._memory = open_memory(file) if host == platform.node() else None
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receiver: Receiver
        self._over = False
        self._last: Any = None  # the call that asked the actor to end
        self._ended: Any = None

    # -- the loop ------------------------------------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop, receiver: Receiver) -> None:
        """Deliver to a receiver on this loop from now on."""
        self._loop = loop
        self._receiver = receiver
        self._cluster.watch(self)
        self._take_answers()

    def detach(self) -> None:
        """Send the remaining messages, and detach from the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._unsent and not self._over:
            self._call()
        self._loop = None
        self._cluster.unwatch(self)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def send(self, parts: Sequence[Any]) -> None:
        """Send one message: at the end of this turn, or together with later messages if a call is in flight."""
        if self._over:
            return
        self._unsent.append(b"".join(on_the_wire(parts)))
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None and self._loop is not None and self._calls < _CALLS:
            if not self._calls:
                self._timer = self._loop.call_soon(self._flush)
            else:
                self._timer = self._loop.call_later(_LATER_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        while self._unsent and self._calls < _CALLS and not self._over:
            self._call()

    def _fetch(self) -> None:
        self._timer = None
        if not self._calls and not self._over:
            self._call()

    def _call(self) -> None:
        unsent, size = self._unsent, 0
        parts = []
        while unsent and (not size or size + len(unsent[0]) <= _MOST_BYTES):
            size += len(unsent[0])
            parts.append(unsent.popleft())
        self._calls += 1
        self._made += 1
        self._exchange(self._made - 1, b"".join(parts)).future().add_done_callback(self._answered)

    def _answered(self, call: Any) -> None:
        """Handle an ended call. Runs in one of Ray's threads."""
        self._answers.append(call)
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._take_answers)

    def _take_answers(self) -> None:
        if self._loop is None:
            return
        while self._answers and not self._over:
            call = self._answers.popleft()
            self._calls -= 1
            error = call.exception()
            if error is not None:
                self._lost(error)
                return
            data = memoryview(call.result())
            self._running_item = int.from_bytes(data[:8], "little")
            for parts in self._reader.feed(data[8:]):
                self._receiver.received(parts)
        if self._over or self._loop is None:
            return
        if self._unsent:
            self._schedule()
        elif not self._calls and self._timer is None and self._receiver.waiting:
            self._timer = self._loop.call_later(_EMPTY_S, self._fetch)

    def _lost(self, error: BaseException) -> None:
        """Report the actor's end, once the item that it ran is known."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        loop = self._loop
        if loop is None:
            return
        self.kill()  # it may only be out of reach
        how = describe(error)
        for line in str(getattr(error, "cause", "")).splitlines():  # of an initializer
            self._receiver.printed(line)
        run_in_daemon_thread(loop, self._read_remains, "flowrt-crash").add_done_callback(
            lambda answer: self._report(how, None if answer.cancelled() or answer.exception() else answer.result())
        )

    def _report(self, how: str, remains: tuple[bytes, list[str]] | None) -> None:
        memory, lines = remains or (b"", [])
        running, outcomes = read_outcomes(memory) if memory else (None, [])
        for line in lines:
            self._receiver.printed(line)
        self._cluster.unwatch(self)
        self._loop = None
        self._receiver.lost(Death(how, running, outcomes))

    def _read_remains(self) -> tuple[bytes, list[str]] | None:
        """Read the actor's files on this host or by a task on its node; returns None if the node is gone, too."""
        files = self._file, self._errors
        found: tuple[bytes, list[str]] | None = read_remains(*files)
        return found or self._cluster.run_on_node(self._node_id, read_remains, *files)

    def cluster_lost(self) -> None:
        """Handle the loss of the cluster's head. Called in any thread."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._report_cluster)

    def _report_cluster(self) -> None:
        self._over = True
        if self._loop is not None:
            self._receiver.failed(self._cluster.lost_error())

    # -- the actor -----------------------------------------------------------------------------------------------------

    def running(self) -> int | None:
        """Number of the plain-function item that runs, 0 for none; on another host, that of the latest answer."""
        return self._running_item if self._memory is None else int(self._memory.running[0])

    def kill(self) -> None:
        """End the actor at once."""
        self._cluster.kill(self._actor)

    def stop(self) -> None:
        """Ask the actor to end after its exit handlers."""
        if not self._over and self._cluster.is_connected:
            self._over = True
            with suppress(Exception):  # the actor may have ended
                self._last = self._exchange(self._made, b"".join(on_the_wire(make_frame((Kind.STOP,)))))
                self._ended = self._actor.__ray_terminate__.remote()

    def close(self, timeout_s: float) -> None:
        """Block until the actor has ended, for at most `timeout_s` seconds; then kill it."""
        if self._ended is not None:
            self._cluster.wait(self._ended, timeout_s)
            with suppress(Exception):  # it has not answered
                self._report_printed([*(call.result() for call in self._answers), self._last.future().result(_LAST_S)])
        self.kill()
        with suppress(OSError):
            Path(self._file).unlink()

    def _report_printed(self, answers: Sequence[bytes]) -> None:
        """Report lines that the actor printed after the batch's end, or flushed only now."""
        if self._made:  # otherwise there is no receiver
            for parts in FrameReader().feed(b"".join([answer[8:] for answer in answers])):
                if Frame.of(parts).envelope[0] == Kind.PRINTED:
                    self._receiver.received(parts)

    def __repr__(self) -> str:
        return f"<RayTransport: pid {self.pid} on {self.host}, {self._calls} calls in flight>"


def open_memory(file: str) -> OutcomeMemory | None:
    """Open the memory of a worker on this host; None if the file is not here, but in another container."""
    try:
        with Path(file).open("r+b") as opened:
            return OutcomeMemory(opened.fileno())
    except (OSError, ValueError):
        return None


def read_remains(file: str, errors: str) -> tuple[bytes, list[str]] | None:
    """Read the files that an ended worker left; None if its memory is not on this host.

    Args:
        file: The file of its memory, which is removed.
        errors: The file of its standard error.

    Returns:
        The memory, and the lines of standard error that it has not sent.
    """
    path = Path(file)
    try:
        data = path.read_bytes()
        path.unlink()
    except OSError:
        return None
    return data, read_lines(errors, _SENT.unpack_from(data, 16)[0], whole=True)[0]


def describe(error: BaseException) -> str:
    """Ray's reason why an actor has ended, on one line, without its advice."""
    text = " ".join(str(error).split())
    text = text.partition("Worker exit detail: ")[2] or text
    return f"{type(error).__name__}: {text.partition(' Some common causes')[0]}"[:_MOST_HOW]
