"""Link to one worker: the attempts in flight there, its service time, its latest usage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from flowrt._util.clock import Clock
from flowrt.errors import ExecutorFailedError
from flowrt.executors.encoding import decode
from flowrt.executors.frames import Frame, Kind, Status, make_frame
from flowrt.executors.mailbox import Entry, Session
from flowrt.executors.pickling import PicklingError, find_unpicklable
from flowrt.executors.send_ahead import SendAhead
from flowrt.executors.transport import Death, Transport
from flowrt.executors.workers import COUNTS
from flowrt.model.node import NodeResult

__all__ = ["LinkOwner", "RemoteLink"]


class LinkOwner(Protocol):
    """Interface of the worker pool."""

    def link_ready(self, link: RemoteLink) -> None:
        """Handle a worker that can take items."""

    def link_answered(self, link: RemoteLink) -> None:
        """Handle outcomes, after which the worker may have capacity for more items."""

    def link_returned(self, link: RemoteLink, entries: list[Entry]) -> None:
        """Handle items that the worker has given back without having started them."""

    def link_lost(self, link: RemoteLink, death: Death) -> None:
        """Handle the end of a worker."""

    def link_printed(self, link: RemoteLink, line: str) -> None:
        """Handle a line that the worker printed to its standard error."""

    def fail(self, error: ExecutorFailedError) -> None:
        """Handle the loss of all workers: none can be reached or started any more."""


class RemoteLink:
    """One worker.

    Args:
        slot: Name of its slot, such as "w0".
        transport: The connection to the worker.
        owner: The pool of workers.
        clock: Monotonic nanoseconds.
        next_number: Reserves a count of numbers for attempts, and returns the first.

    Attributes:
        entries: Attempts in the worker by number, in the order in which they were sent.
        ahead: Most plain-function items that the worker may have at once.
        suspect: A coroutine attempt that runs alone, since it may have crashed two workers; or None.
        ready: True once it can take items.
        was_ready: True once the worker was ready, even if it has ended since.
        retiring: True if it was asked to end.
        done: Number of attempts that ended in the worker.
        busy_ns: Time for which it ran attempts, in nanoseconds.
        resident_bytes: Its resident memory at its last message.
        why_killed: Reason for a kill by flowrt, else None.
    """

    def __init__(
        self,
        slot: str,
        transport: Transport,
        owner: LinkOwner,
        clock: Clock,
        next_number: Callable[[int], int],
    ) -> None:
        self.slot = slot
        self.transport = transport
        self.entries: dict[int, Entry] = {}
        self.ahead = SendAhead()
        self.suspect: Entry | None = None
        self.ready = False
        self.was_ready = False
        self.retiring = False
        self.done = 0
        self.busy_ns = 0
        self.resident_bytes = 0
        self.why_killed: str | None = None
        self._owner = owner
        self._clock = clock
        self._next_number = next_number
        self._sessions: dict[int, bool] = {}  # those that the worker knows; True once their node is loaded there

    def attach(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        """Attach to a loop."""
        self._clock = clock
        self.transport.attach(loop, self)

    # -- to the worker -------------------------------------------------------------------------------------------------

    def send(self, session: Session, entries: Sequence[Entry]) -> None:
        """Send attempts of one session, in one message where that is possible."""
        if session.number not in self._sessions:
            self._sessions[session.number] = False
            self.transport.send(make_frame((Kind.OPEN, session.number), session.opening))
        most = self.transport.most_bytes
        if most is not None and self.ahead.item_bytes * len(entries) > most:
            count = max(1, int(most / self.ahead.item_bytes))
            for start in range(0, len(entries), count):
                self._send(session, entries[start : start + count])
        else:
            self._send(session, entries)

    def _send(self, session: Session, entries: Sequence[Entry]) -> None:
        count = len(entries)
        first = self._next_number(count)
        numbers = range(first, first + count)
        items = [entry.item for entry in entries]
        contexts = None if items[0].trace is None else [_context(item.trace) for item in items]
        envelope = (
            Kind.ITEMS,
            session.number,
            first,
            [item.index for item in items],
            [entry.attempt for entry in entries],
            contexts,
        )
        try:
            parts = make_frame(envelope, [item.input_data for item in items])
        except Exception as exc:
            if count > 1:
                for entry in entries:
                    self._send(session, [entry])
            else:
                entries[0].fail(PicklingError(find_unpicklable(items[0].input_data, "the input", exc)))
            return
        now = self._clock()
        blocking = session.blocking
        starts = self._sessions[session.number] and not blocking
        idle = not self.entries
        for number, entry in zip(numbers, entries, strict=True):
            entry.link = self
            entry.number = number
            entry.sent_ns = now
            if starts and entry.own:
                entry.item.started_ns = now
        self.entries.update(zip(numbers, entries, strict=True))
        if blocking and idle:
            self._start_next()
        self.ahead.record_sent(count, sum(map(len, parts[:2])))
        self.transport.send(parts)

    def cancel(self, entry: Entry) -> None:
        """Ask the worker to end an attempt."""
        self.transport.send(make_frame((Kind.CANCEL, (entry.number,))))

    def recall(self, count: int) -> None:
        """Ask the worker to give back items that it has not started, the last ones first."""
        self.transport.send(make_frame((Kind.RECALL, count)))

    def close_session(self, session: Session) -> None:
        """Close a session in the worker."""
        if session.number in self._sessions:
            del self._sessions[session.number]
            self.transport.send(make_frame((Kind.CLOSE, session.number)))

    def kill(self, reason: str) -> None:
        """End the worker at once.

        Args:
            reason: For the count of restarts.
        """
        if self.why_killed is None:
            self.why_killed = reason
            self.transport.kill()

    @property
    def waiting(self) -> bool:
        """True if a message from the worker is due."""
        return bool(self.entries) or not self.ready

    # -- from the worker -----------------------------------------------------------------------------------------------

    def received(self, parts: Sequence[Any]) -> None:
        """Take one message."""
        frame = Frame.of(parts)
        kind = frame.envelope[0]
        if kind == Kind.OUTCOMES:
            self._outcomes(frame)
            self._owner.link_answered(self)
        elif kind == Kind.READY:
            self.transport.pid, self.transport.host = frame.envelope[1:]
            self.ready = self.was_ready = True
            self._owner.link_ready(self)
        elif kind == Kind.OPENED:
            self._opened(frame.envelope[1])
        elif kind == Kind.PRINTED:
            for line in frame.envelope[1]:
                self.printed(line)
        elif kind == Kind.UNREADABLE or kind == Kind.RETURNED:
            back = [self.entries.pop(number) for number in frame.envelope[1] if number in self.entries]
            for entry in back:
                entry.alone = entry.alone or kind == Kind.UNREADABLE
            self._start_next()
            self._owner.link_returned(self, back)

    def _outcomes(self, frame: Frame) -> None:
        _, numbers, statuses, services_ns, inboxes_ns, usage = frame.envelope
        busy_ns, self.resident_bytes = usage
        COUNTS.busy_ns[self.slot] += busy_ns - self.busy_ns
        self.busy_ns = busy_ns
        unreadable: Exception | None = None
        try:
            values = frame.load()
        except Exception as exc:
            unreadable, values = exc, [None] * len(numbers)
        self._end(numbers, statuses, services_ns, inboxes_ns, values, unreadable)

    def _end(
        self,
        numbers: Sequence[int],
        statuses: Sequence[int],
        services_ns: Sequence[int],
        inboxes_ns: Sequence[int],
        values: Sequence[Any],
        unreadable: Exception | None,
    ) -> None:
        """Finish the attempts that have ended in the worker."""
        now = self._clock()
        take, ok = self.entries.pop, Status.OK
        entry: Entry | None = None
        for number, status, service_ns, value in zip(numbers, statuses, services_ns, values, strict=True):
            entry = take(number, None)
            if entry is None:
                continue  # given up
            entry.service_ns = service_ns
            if status == ok and unreadable is None:
                if not entry.future.done():
                    entry.future.set_result(NodeResult(True, value))
                else:
                    entry.finish(None)
            else:
                _finish(entry, status, value, unreadable)
        count = len(numbers)
        self.done += count
        self.ahead.record_service(count, sum(services_ns))
        if entry is not None:
            COUNTS.add_transport(max(0, now - entry.sent_ns - services_ns[-1] - inboxes_ns[-1]))
        if self.suspect is not None and not self.entries:
            self.suspect = None
        self._start_next()

    def _opened(self, session: int) -> None:
        """Start the time, and so the time limit, of attempts whose node has now loaded."""
        if session in self._sessions:
            self._sessions[session] = True
        for entry in self.entries.values():
            if entry.session.number == session and entry.own and not entry.session.blocking:
                entry.item.started_ns = self._clock()
        self._start_next()

    def _start_next(self) -> None:
        """Start the time limit of the next plain function."""
        for entry in self.entries.values():
            if entry.session.blocking:
                if entry.own and not entry.item.started_ns and self._sessions[entry.session.number]:
                    entry.item.started_ns = self._clock()
                break

    def observe_running(self) -> None:
        """Start the time limit of the plain function that the worker reports as running.

        Functions before it have ended there, but their outcomes have not arrived: their time limits stop.
        """
        number = self.transport.running()
        current = self.entries.get(number) if number else None
        if current is None or (current.item.started_ns and current.own):
            return
        for entry in self.entries.values():
            if entry is current:
                break
            if entry.session.blocking and entry.own:
                entry.item.started_ns = 0
        if current.own:
            current.item.started_ns = self._clock()

    def printed(self, line: str) -> None:
        """Pass on a line that the worker printed to its standard error."""
        self._owner.link_printed(self, line)

    def lost(self, death: Death) -> None:
        """Handle the end of the worker."""
        self.ready = False
        if death.outcomes:
            numbers, statuses, services_ns, inboxes_ns, values = zip(*death.outcomes, strict=True)
            self._end(numbers, statuses, services_ns, inboxes_ns, values, None)
        self._owner.link_lost(self, death)

    def failed(self, error: ExecutorFailedError) -> None:
        """Handle the loss of all workers."""
        self._owner.fail(error)

    def __repr__(self) -> str:
        state = "ready" if self.ready else "not ready"
        return f"<RemoteLink {self.slot}: {state}, {len(self.entries)} in flight, {self.ahead!r}>"


def _context(trace: Any) -> bytes | None:
    """Ids of an item's span, and whether it is sampled, in 25 bytes; None if the provider is disabled."""
    ids: bytes = trace.ids
    return ids[:16] + ids[-8:] + (b"\1" if trace.sampled else b"\0") if ids else None


def _finish(entry: Entry, status: int, value: Any, unreadable: Exception | None) -> None:
    """Finish an attempt that did not simply return a plain value."""
    if status == Status.CANCELLED:
        entry.fail(ExecutorFailedError("the worker cancelled the attempt"))
    elif unreadable is not None:
        kind = type(unreadable).__name__
        entry.fail(PicklingError(f"the output cannot be loaded by the driver ({kind}: {unreadable})"))
    else:
        try:
            entry.finish(decode(status, value))
        except BaseException as exc:  # raised where the attempt is awaited
            entry.fail(exc)
