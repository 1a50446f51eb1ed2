"""Pool of remote workers: hire them, replace the dead, attribute crashes, run the batches' attempts."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from flowrt._util.clock import clock_of
from flowrt.errors import ExecutorFailedError, WorkerCrashed
from flowrt.executors.frames import Kind, make_frame
from flowrt.executors.mailbox import Entry, Mailbox, Session
from flowrt.executors.remote_link import RemoteLink
from flowrt.executors.remote_session import RemoteSession
from flowrt.executors.transport import Death, Launcher, Transport
from flowrt.executors.workers import POOLS, RESTART_REASONS, LastCrash, WorkerState
from flowrt.model.node import BaseNode

__all__ = ["RemotePool"]

_log: Final = logging.getLogger("flowrt.workers")
_MOST_FAILED_STARTS: Final = 3
_LAST_LINES: Final = 20


class _Slot:
    """One worker after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: RemoteLink | None = None
        self.starting: asyncio.Future[Transport] | None = None
        self.restarts = dict.fromkeys(RESTART_REASONS, 0)
        self.busy_ns_before = 0
        self.last_crash: LastCrash | None = None
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)


class RemotePool:
    """Workers of one executor, used by batches on one loop at a time.

    Args:
        kind: What the workers are, such as "processes".
        launcher: Starts them.
        workers: How many there are at most.
        hello: Settings that each worker is sent first.
        max_crashes: Number of workers that an item may kill before it fails.

    Attributes:
        clock: The clock of the loop that it is attached to, in nanoseconds.
        reruns: Number of times that an attempt was run again, since its worker ended.
    """

    def __init__(self, kind: str, launcher: Launcher, workers: int, *, hello: dict[str, Any], max_crashes: int) -> None:
        self.kind = kind
        self.reruns = 0
        self._launcher = launcher
        self._hello = hello
        self._max_crashes = max_crashes
        self._slots = [_Slot(f"w{place}") for place in range(workers)]
        self._sessions: dict[int, RemoteSession] = {}
        self._session_numbers = 0
        self._numbers = 1
        self._failed_starts = 0
        self._failure: ExecutorFailedError | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mailbox: Mailbox
        POOLS.add(self)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the batches that use it now, or None."""
        return self._loop

    # -- batches -------------------------------------------------------------------------------------------------------

    def open(self, node: BaseNode, slots: int) -> RemoteSession:
        """Open a session of a batch on the running loop, and hire workers for it.

        Raises:
            TypeError: The node cannot be pickled.
            RuntimeError: The executor was closed.
        """
        if self._closed:
            raise RuntimeError(f"the executor {self.kind!r} was closed")
        loop = asyncio.get_running_loop()
        self._session_numbers += 1
        session = RemoteSession(self, self._session_numbers, node, slots)
        if self._loop is None:
            self._attach(loop)
        self._sessions[session.number] = session
        self._hire()
        return session

    def close_session(self, session: Session) -> None:
        """Let the workers forget a batch. They stay."""
        if self._sessions.pop(session.number, None) is None:
            return
        for link in self._links():
            link.close_session(session)
        if not self._sessions:
            self._detach()

    def submit(self, entry: Entry) -> None:
        """Queue an attempt."""
        if self._failure is not None:
            entry.fail(self._failure)
        else:
            self._mailbox.add(entry)

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.clock = clock_of(loop)
        self._failure = None
        self._failed_starts = 0
        self._mailbox = Mailbox(loop, self._ready_links)
        for slot in self._slots:
            if slot.link is not None:
                slot.link.attach(loop, self.clock)

    def _detach(self) -> None:
        self._loop = None
        for slot in self._slots:
            if slot.link is not None:
                slot.link.transport.detach()

    # -- workers -------------------------------------------------------------------------------------------------------

    def _links(self) -> list[RemoteLink]:
        return [slot.link for slot in self._slots if slot.link is not None]

    def _ready_links(self) -> list[RemoteLink]:
        return [link for link in self._links() if link.ready and not link.retiring]

    def _hire(self) -> None:
        """Start workers up to the number that the batches can use."""
        wanted = sum(session.slots for session in self._sessions.values())
        loop = self._loop
        if loop is None or self._failure is not None:
            return
        for slot in self._slots[:wanted]:
            if slot.link is None and slot.starting is None:
                slot.last_lines.clear()
                slot.starting = self._launcher.launch(loop, slot.name)
                slot.starting.add_done_callback(partial(self._started, slot))

    def _started(self, slot: _Slot, starting: asyncio.Future[Transport]) -> None:
        slot.starting = None
        loop = self._loop
        if starting.cancelled():
            return
        if (error := starting.exception()) is not None:
            self._start_failed(slot, f"{type(error).__name__}: {error}")
            return
        transport = starting.result()
        if self._closed or loop is None:
            transport.kill()
            return
        link = slot.link = RemoteLink(slot.name, transport, self, self.clock, self._take_numbers)
        link.attach(loop, self.clock)
        transport.send(make_frame((Kind.HELLO,), {**self._hello, "slot": slot.name}))

    def _start_failed(self, slot: _Slot, why: str) -> None:
        self._failed_starts += 1
        if self._failed_starts < _MOST_FAILED_STARTS:
            self._hire()
            return
        said = "".join(f"\n  {line}" for line in slot.last_lines) or " nothing"
        self._fail(
            ExecutorFailedError(
                f"{self._failed_starts} workers ended before they were ready ({why}); the last one printed:{said}"
            )
        )

    def _fail(self, error: ExecutorFailedError) -> None:
        """Fail all attempts: no worker can run them."""
        self._failure = error
        entries = self._mailbox.take_all()
        for link in self._links():
            entries += link.entries.values()
            link.entries.clear()
        for entry in entries:
            entry.fail(error)

    def _take_numbers(self, count: int) -> int:
        first = self._numbers
        self._numbers += count
        return first

    # -- what the links report -----------------------------------------------------------------------------------------

    def link_ready(self, link: RemoteLink) -> None:  # noqa: ARG002  # the protocol's
        """Send a new worker its share."""
        self._failed_starts = 0
        self._mailbox.schedule()

    def link_answered(self, link: RemoteLink) -> None:  # noqa: ARG002
        """Send more to a worker that has capacity again."""
        if self._mailbox:
            self._mailbox.schedule()

    def link_returned(self, link: RemoteLink, entries: list[Entry]) -> None:  # noqa: ARG002
        """Queue items again that a worker gave back."""
        self._mailbox.put_back(entries)

    def link_lost(self, link: RemoteLink, death: Death) -> None:
        """Attribute a crash, queue the innocent attempts again and hire another worker."""
        slot = next(slot for slot in self._slots if slot.name == link.slot)
        slot.link = None
        slot.busy_ns_before += link.busy_ns
        lines = tuple(slot.last_lines)
        reason = link.why_killed or "crash"
        slot.restarts[reason] += 1
        entries = list(link.entries.values())
        link.entries.clear()
        if reason == "crash":
            slot.last_crash = LastCrash(death.how, lines)
            _log.warning("worker %s (pid %d) ended: %s", link.slot, link.transport.pid, death.how)
        back = []
        for entry in entries:
            if entry.future.done():  # it was cancelled, and has ended now
                entry.fail(ExecutorFailedError("its worker was ended"))
                continue
            if not entry.session.blocking:
                suspect = reason == "crash"
            else:
                suspect = reason == "crash" and entry.number == death.running
            entry.crashes += suspect
            if entry.crashes >= self._max_crashes:
                entry.fail(_crashed(entry, death, lines))
            else:
                self.reruns += bool(suspect or not entry.session.blocking)
                back.append(entry)
        if self._loop is None:
            return
        self._mailbox.put_back(back)
        if not link.done and not link.ready and reason == "crash" and not entries:
            self._start_failed(slot, death.how)
        else:
            self._hire()

    def link_event(self, link: RemoteLink, event: dict[str, Any]) -> None:
        """Keep and log what a worker printed."""
        if event.get("event") == "worker.stderr":
            slot = next(slot for slot in self._slots if slot.name == link.slot)
            slot.last_lines.append(event["line"])
            _log.info("worker %s: %s", link.slot, event["line"])

    # -- seen from outside ---------------------------------------------------------------------------------------------

    def worker_states(self) -> list[WorkerState]:
        """State of each slot, for the live page and the metrics; any thread may call it."""
        states = []
        for slot in self._slots:
            link = slot.link
            states.append(
                WorkerState(
                    executor=self.kind,
                    slot=slot.name,
                    pid=0 if link is None else link.transport.pid,
                    host="" if link is None else link.transport.host,
                    ready=link is not None and link.ready,
                    busy_seconds=(slot.busy_ns_before + (0 if link is None else link.busy_ns)) / 1e9,
                    inflight=0 if link is None else len(link.entries),
                    resident_bytes=0 if link is None else link.resident_bytes,
                    restarts=dict(slot.restarts),
                    last_crash=slot.last_crash,
                )
            )
        return states

    def close(self, timeout_s: float = 1.0) -> None:
        """End the workers; block for at most `timeout_s`, then kill those that are left."""
        self._closed = True
        POOLS.discard(self)
        for slot in self._slots:
            link, slot.link = slot.link, None
            if link is not None:
                link.transport.close(timeout_s)


def _crashed(entry: Entry, death: Death, lines: Sequence[str]) -> WorkerCrashed:
    said = "".join(f"\n  {line}" for line in lines)
    return WorkerCrashed(
        f"its worker ended with {death.how} each of the {entry.crashes} times that item {entry.item.index} ran"
        + (f"; the last one printed:{said}" if said else ""),
        death.how,
        tuple(lines),
    )
