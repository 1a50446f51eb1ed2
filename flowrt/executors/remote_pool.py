"""Pool of remote workers: starts, recycles and replaces workers, and sends them the batches' attempts."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from flowrt._util.clock import clock_of
from flowrt.errors import ExecutorFailedError
from flowrt.executors.crashes import attribute
from flowrt.executors.frames import Kind, make_frame
from flowrt.executors.mailbox import Entry, Mailbox, Session
from flowrt.executors.remote_link import RemoteLink
from flowrt.executors.remote_session import RemoteSession
from flowrt.executors.transport import Death, Launcher, Transport
from flowrt.executors.worker_slot import WorkerSlot
from flowrt.executors.workers import COUNTS, POOLS, LastCrash, WorkerState, report
from flowrt.model.node import BaseNode

__all__ = ["PoolSettings", "RemotePool"]

_MOST_FAILED_STARTS: Final = 3
_BALANCE_S: Final = 0.01  # time without items after which a worker takes items sent ahead to others
_OVERDUE_S: Final = 5.0  # until the others take the share of a worker that does not become ready
_WATCH_S: Final = 0.05  # precision of the time limits of plain functions
_STOP_S: Final = 1.0  # time for the exit handlers of a recycled worker


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Settings of a pool.

    Args:
        kind: Kind of the workers, such as "processes".
        workers: Largest number of workers.
        hello: Settings that each worker is sent first.
        max_crashes: Number of workers that an item may crash before it fails.
        recycle_after: Number of attempts after which a worker is replaced, or None.
        memory_limit: Resident memory above which a worker is replaced, in bytes, or None.
    """

    kind: str
    workers: int
    hello: dict[str, Any] = field(default_factory=dict)
    max_crashes: int = 3
    recycle_after: int | None = None
    memory_limit: int | None = None


class RemotePool:
    """Workers of one executor, used by batches on one loop at a time.

    Args:
        launcher: Starts the workers.
        settings: The settings.

    Attributes:
        clock: The clock of the loop to which the pool is attached, in nanoseconds.
        loop: The loop of the batches that use the pool now, or None.
        pid: Id of the process that made the pool.
        closed: True once the workers were ended.
    """

    def __init__(self, launcher: Launcher, settings: PoolSettings) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.pid = os.getpid()
        self._launcher = launcher
        self._settings = settings
        names = [f"w{place}" for place in range(settings.workers)]
        for name in names:
            COUNTS.declare(name)
        self._slots = {name: WorkerSlot(name) for name in names}
        self._sessions: dict[int, RemoteSession] = {}
        self._session_numbers = 0
        self._numbers = 1
        self._failed_starts = 0
        self._failure: ExecutorFailedError | None = None
        self.closed = False
        self._balancing: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._mailbox: Mailbox
        POOLS.add(self)

    # -- batches -------------------------------------------------------------------------------------------------------

    def open(self, node: BaseNode, slots: int) -> RemoteSession:
        """Open a session of a batch on the running loop, and start workers for it.

        Raises:
            TypeError: The node cannot be pickled.
        """
        session = RemoteSession(self, self._session_numbers + 1, node, slots, len(self._slots))
        self._session_numbers += 1
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            self._leave_closed_loop()
            self._attach(loop)
        self._sessions[session.number] = session
        self._hire()
        return session

    def _leave_closed_loop(self) -> None:
        """Remove batches whose loop was closed before their end, and end the workers that still run their items."""
        if self.loop is not None:
            self._sessions.clear()
            self._detach()
            for link in self._links():
                if link.entries:
                    link.entries.clear()
                    link.kill("cancelled")

    def close_session(self, session: Session) -> None:
        """Close a batch's session in the workers, which stay."""
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
        self.loop = loop
        self.clock = clock_of(loop)
        self._failure = None
        self._failed_starts = 0
        self._mailbox = Mailbox(loop, self._ready_links, self._count_starting)
        for slot in self._slots.values():
            for link in slot.links():
                link.attach(loop, self.clock)
            if slot.starting is not None:
                self._await_start(slot, slot.starting)
        self._watching = loop.call_later(_WATCH_S, self._watch)

    def _watch(self) -> None:
        """Read which items run, since a worker sends no message when a plain function starts."""
        if self.loop is not None:
            self._watching = self.loop.call_later(_WATCH_S, self._watch)
        for link in self._links():
            if len(link.entries) > 1:
                link.observe_running()

    def _detach(self) -> None:
        self.loop = None
        for timer in (self._balancing, self._watching):
            if timer is not None:
                timer.cancel()
        self._balancing = self._watching = None
        for link in self._links():
            link.transport.detach()

    # -- workers -------------------------------------------------------------------------------------------------------

    def _links(self) -> list[RemoteLink]:
        return [link for slot in self._slots.values() for link in slot.links()]

    def _ready_links(self) -> list[RemoteLink]:
        return [slot.link for slot in self._slots.values() if slot.link is not None and slot.link.ready]

    @property
    def ready(self) -> bool:
        """True if any worker can take items."""
        return bool(self._ready_links())

    def _note_ready(self) -> None:
        for session in self._sessions.values():
            session.workers_changed(ready=self.ready)

    def _count_starting(self) -> int:
        """Number of workers that are not ready yet, and not overdue."""
        now = time.monotonic()
        slots = [slot for slot in self._slots.values() if slot.link is None or not slot.link.ready]
        return sum(now - slot.requested_s < _OVERDUE_S for slot in slots)

    def _hire(self) -> None:
        """Start workers up to the number that the batches can use."""
        wanted = sum(session.slots for session in self._sessions.values())
        if self.loop is None or self._failure is not None:
            return
        for slot in list(self._slots.values())[:wanted]:
            if slot.link is None and slot.spare is None:
                self._start(slot)

    def _start(self, slot: WorkerSlot) -> None:
        if slot.starting is None:
            if slot.link is None:
                slot.requested_s = time.monotonic()
                if self.loop is not None:
                    self.loop.call_later(_OVERDUE_S, self._mailbox.schedule)
            slot.starting = self._launcher.launch(slot.name)
            self._await_start(slot, slot.starting)

    def _await_start(self, slot: WorkerSlot, starting: Future[Transport]) -> None:
        loop = self.loop

        def started(_: Future[Transport]) -> None:
            if loop is not None:
                with suppress(RuntimeError):  # the loop is closed: the next one sees to it
                    loop.call_soon_threadsafe(self._started, slot, starting)

        starting.add_done_callback(started)

    def _started(self, slot: WorkerSlot, starting: Future[Transport]) -> None:
        if self.loop is None or slot.starting is not starting:
            return
        slot.starting = None
        error = starting.exception()
        if isinstance(error, ExecutorFailedError):  # no other worker would start either
            self.fail(error)
            return
        if error is not None:
            self._start_failed(slot, f"{type(error).__name__}: {error}")
            return
        slot.last_lines.clear()
        transport = starting.result()
        link = RemoteLink(slot.name, transport, self, self.clock, self._take_numbers)
        if slot.link is None:
            slot.link = link
        else:
            slot.spare = link
        link.attach(self.loop, self.clock)
        transport.send(make_frame((Kind.HELLO,), {**self._settings.hello, "slot": slot.name}))

    def _start_failed(self, slot: WorkerSlot, why: str) -> None:
        slot.replaces = None
        self._failed_starts += 1
        if self._failed_starts < _MOST_FAILED_STARTS:
            self._hire()
        elif self._failure is None:
            said = "".join(f"\n  {line}" for line in slot.last_lines) or " nothing"
            self.fail(
                ExecutorFailedError(
                    f"{self._failed_starts} workers ended before they were ready ({why}); the last one printed:{said}"
                )
            )

    def fail(self, error: ExecutorFailedError) -> None:
        """Fail all attempts and so the batches, because no worker can run any more."""
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

    def link_ready(self, link: RemoteLink) -> None:
        """Send a new worker its share; a spare worker replaces its slot's worker."""
        self._failed_starts = 0
        slot = self._slots[link.slot]
        if link is slot.spare:
            old, slot.link, slot.spare = slot.link, link, None
            reason, slot.replaces = slot.replaces, None
            if old is not None:
                self._count_restart(slot, reason or "recycled")
                slot.retired.append(old)
                self._retire(old)
        self._note_ready()
        self._give_work(link)

    def _retire(self, link: RemoteLink) -> None:
        """End a worker that was replaced, once it is idle."""
        if link.retiring:
            return
        if any(entry.session.blocking for entry in link.entries.values()):
            link.recall(len(link.entries))
        if not link.entries and self.loop is not None:
            link.retiring = True
            link.transport.send(make_frame((Kind.STOP,)))
            self.loop.call_later(_STOP_S, link.transport.kill)

    def link_answered(self, link: RemoteLink) -> None:
        """Send more to a worker that has capacity again, or replace it."""
        slot = self._slots[link.slot]
        if link is not slot.link:
            self._retire(link)
            return
        settings = self._settings
        if slot.replaces is None and slot.spare is None:
            if settings.recycle_after is not None and link.done >= settings.recycle_after:
                slot.replaces = "recycled"
            elif settings.memory_limit is not None and link.resident_bytes > settings.memory_limit:
                slot.replaces = "memory"
            if slot.replaces is not None:
                self._start(slot)
        self._give_work(link)

    def _give_work(self, link: RemoteLink) -> None:
        """Send a worker its share of the waiting attempts, or of those sent ahead to other workers."""
        if self._mailbox:
            self._mailbox.schedule()
        elif not link.entries and self._balancing is None and self.loop is not None:
            self._balancing = self.loop.call_later(_BALANCE_S, self._balance)

    def _balance(self) -> None:
        """Recall items that were sent ahead to a busy worker while another worker is idle."""
        self._balancing = None
        links = self._ready_links()
        if self._mailbox or all(link.entries for link in links):
            return
        donor = max(links, key=_sent_ahead)
        count = _sent_ahead(donor)
        if count > 0:
            donor.recall(-(-count // 2))
            if self.loop is not None:
                self._balancing = self.loop.call_later(_BALANCE_S, self._balance)

    def link_returned(self, link: RemoteLink, entries: list[Entry]) -> None:  # noqa: ARG002  # the protocol's
        """Queue items again that a worker gave back."""
        if entries:
            self._mailbox.put_back(entries)

    def link_lost(self, link: RemoteLink, death: Death) -> None:
        """Attribute a crash, queue the other attempts again and start a new worker."""
        slot = self._slots[link.slot]
        if link in slot.retired:
            slot.retired.remove(link)
        elif link is slot.spare:
            slot.spare = None
        else:
            slot.link = None
        lines = tuple(slot.last_lines)
        crashed = link.why_killed is None and not link.retiring
        if crashed:
            slot.last_crash = LastCrash(death.how, lines, time.time())
            report("warning", "worker.crashed", worker=slot.name, pid=link.transport.pid, how=death.how)
        if link.why_killed is not None or (crashed and link.was_ready):
            self._count_restart(slot, link.why_killed or "crash")
        if self.loop is None:
            return
        self._note_ready()
        self._mailbox.put_back(attribute(link, death, lines, self._settings.max_crashes))
        if crashed and not link.was_ready:
            self._start_failed(slot, death.how)
        else:
            self._hire()

    def _count_restart(self, slot: WorkerSlot, reason: str) -> None:
        slot.restarts[reason] += 1
        COUNTS.restarts[slot.name][reason] += 1

    def link_printed(self, link: RemoteLink, line: str) -> None:
        """Store and report a line of a worker's standard error."""
        self._slots[link.slot].last_lines.append(line)
        report("info", "worker.stderr", worker=link.slot, pid=link.transport.pid, line=line)

    # -- seen from outside ---------------------------------------------------------------------------------------------

    def worker_states(self) -> list[WorkerState]:
        """State of each slot, for the live page and the metrics; any thread may call it."""
        return [slot.state(self._settings.kind, in_use=self.loop is not None) for slot in self._slots.values()]

    def close(self, timeout_s: float = _STOP_S) -> None:
        """End the workers; block for at most `timeout_s`, then kill the remaining ones. Call it when no batch runs."""
        if self.closed or self.pid != os.getpid():
            return
        self.closed = True
        POOLS.discard(self)
        if self.loop is not None:
            self.fail(ExecutorFailedError("the executor was closed"))
            self._detach()
        until = time.monotonic() + timeout_s
        transports = [link.transport for link in self._links()]
        for slot in self._slots.values():
            if slot.starting is not None:
                with suppress(Exception):
                    transports.append(slot.starting.result(timeout_s))
            slot.link = slot.spare = slot.starting = None
            slot.retired.clear()
        for transport in transports:
            transport.stop()
        for transport in transports:
            transport.close(max(0.0, until - time.monotonic()))

    def __repr__(self) -> str:
        return f"<RemotePool of {self._settings.kind}: {len(self._ready_links())} of {len(self._slots)} workers ready>"


def _sent_ahead(link: RemoteLink) -> int:
    """Number of plain-function items that wait in a worker behind the running item."""
    return sum(entry.session.blocking for entry in link.entries.values()) - 1
