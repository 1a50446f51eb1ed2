"""Mailbox: queue of attempts at the driver, and their distribution among the workers.

Attempts that become ready in one turn of the loop are sent in one message per worker. Plain functions run one after
another in a worker, so each worker gets enough to fill its window, and the rest waits here for the first worker with
capacity. Coroutines run side by side in a worker, so all of them are sent at once, evenly.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from flowrt.executors.send_ahead import SendAhead
from flowrt.executors.transport import Transport
from flowrt.model import BatchRecord

__all__ = ["Entry", "Item", "Link", "Mailbox", "Session"]


class Item(Protocol):
    """Fields of an item's record that the mailbox uses."""

    started_ns: int
    trace: Any

    @property
    def batch(self) -> BatchRecord | None:
        """Its batch, if it has one."""

    @property
    def index(self) -> int:
        """Its place in the input."""

    @property
    def input_data(self) -> Any:
        """The input."""

    @property
    def attempts(self) -> int:
        """Number of its attempts."""

    @property
    def pulled_ns(self) -> int:
        """When the item was pulled from the source."""


class Session(Protocol):
    """Fields of a session that the mailbox uses.

    Attributes:
        number: The session's number in the pool.
        blocking: True if the node is a plain function.
        opening: Pickled node and settings, which a worker needs before its first item.
        slots: Most attempts at once.
    """

    number: int
    blocking: bool
    opening: Any
    slots: int

    @property
    def exhausted(self) -> bool:
        """True if the batch's inputs are known to be exhausted."""


class Link(Protocol):
    """Fields of a worker that the mailbox uses.

    Attributes:
        entries: Attempts in the worker by number.
        ahead: Most plain-function items that the worker may have at once.
        suspect: An attempt that must run alone in the worker, or None.
        transport: The connection to the worker.
    """

    entries: dict[int, Entry]
    ahead: SendAhead
    suspect: Entry | None
    transport: Transport

    def send(self, session: Session, entries: Sequence[Entry]) -> None:
        """Send attempts of one session."""

    def cancel(self, entry: Entry) -> None:
        """Ask the worker to end an attempt."""

    def kill(self, reason: str) -> None:
        """End the worker at once."""


class Entry:
    """One attempt, from its submission to its outcome.

    Attributes:
        item: The item's record.
        session: The batch's session.
        own: False for a hedge: the item's times are those of its own attempt.
        future: Future of the outcome; cancelled if the attempt is no longer wanted.
        attempt: The attempt's number.
        number: The number under which the attempt was sent; 0 while it waits at the driver.
        sent_ns: When the attempt was sent.
        service_ns: Service time, once the worker has reported it.
        crashes: Number of workers that the attempt has, or may have, crashed.
        link: The worker that has the attempt, or None.
        ended: Future of the attempt's end in the worker, if it was cancelled after it was sent; else None.
        alone: True if the attempt needs its own message, because a message with others could not be loaded.
    """

    __slots__ = (
        "alone",
        "attempt",
        "crashes",
        "ended",
        "future",
        "item",
        "link",
        "number",
        "own",
        "sent_ns",
        "service_ns",
        "session",
    )

    def __init__(self, item: Item, session: Session, own: bool, future: asyncio.Future[Any], attempt: int) -> None:
        self.item = item
        self.session = session
        self.own = own
        self.future = future
        self.attempt = attempt
        self.number = 0
        self.sent_ns = 0
        self.service_ns = 0
        self.crashes = 0
        self.link: Link | None = None
        self.ended: asyncio.Future[None] | None = None
        self.alone = False

    def finish(self, result: Any) -> None:
        """Set the node's value as the outcome."""
        if not self.future.done():
            self.future.set_result(result)
        elif self.ended is not None and not self.ended.done():
            self.ended.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Set the attempt's exception as the outcome."""
        if not self.future.done():
            self.future.set_exception(error)
        elif self.ended is not None and not self.ended.done():
            self.ended.set_result(None)

    def __repr__(self) -> str:
        return f"<Entry of item {self.item.index}, attempt {self.attempt}, number {self.number}>"


class Mailbox:
    """Attempts that wait for a worker.

    Args:
        loop: The running loop.
        ready: The workers that can take items.
        starting: Number of workers that will soon be ready: their share of the coroutines is kept for them.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ready: Callable[[], Sequence[Link]], starting: Callable[[], int]
    ) -> None:
        self._loop = loop
        self._ready = ready
        self._starting = starting
        self._plain: deque[Entry] = deque()
        self._coroutines: deque[Entry] = deque()
        self._suspects: deque[Entry] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._plain) + len(self._coroutines) + len(self._suspects)

    def add(self, entry: Entry) -> None:
        """Queue an attempt; it is sent at the end of this turn of the loop."""
        (self._plain if entry.session.blocking else self._coroutines).append(entry)
        if not self._scheduled:
            self.schedule()

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Put attempts back at the head of the queue, in their order.

        A coroutine attempt that may have crashed two workers is queued to run alone.
        """
        for entry in reversed(entries):
            if entry.future.done():  # it was cancelled
                entry.finish(None)
                continue
            entry.link = None
            entry.number = 0
            if entry.own:
                entry.item.started_ns = 0
            if entry.session.blocking:
                self._plain.appendleft(entry)
            elif entry.crashes >= 2:
                self._suspects.appendleft(entry)
            else:
                self._coroutines.appendleft(entry)
        self.schedule()

    def schedule(self) -> None:
        """Send as many attempts as the workers have capacity for, at the end of this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def take_all(self) -> list[Entry]:
        """Remove and return all attempts."""
        entries = [*self._suspects, *self._plain, *self._coroutines]
        for queue in (self._suspects, self._plain, self._coroutines):
            queue.clear()
        return entries

    def flush(self) -> None:
        """Send as many attempts as the workers have capacity for."""
        self._scheduled = False
        if not self:
            return
        links = [link for link in self._ready() if link.suspect is None]
        if self._suspects:
            links = self._send_suspects(links)
        if links:
            if self._coroutines:
                self._deal(self._coroutines, links, bounded=False)
            if self._plain:
                self._deal(self._plain, links, bounded=True)

    def _send_suspects(self, links: list[Link]) -> list[Link]:
        """Send each idle worker one suspect, to run alone; returns the other workers."""
        free = []
        for link in links:
            while self._suspects and self._suspects[0].future.done():
                self._suspects.popleft()
            if self._suspects and not link.entries:
                link.suspect = suspect = self._suspects.popleft()
                link.send(suspect.session, [suspect])
            else:
                free.append(link)
        # one worker takes nothing more until it is idle, or the suspects would wait for ever
        return free[1:] if self._suspects and len(free) == len(links) else free

    def _deal(self, queue: deque[Entry], links: list[Link], *, bounded: bool) -> None:
        """Distribute a queue evenly, beginning with the worker that has the fewest items.

        Args:
            queue: The attempts.
            links: Workers that can take items.
            bounded: True if a worker takes no more items than its window allows.
        """
        waiting = len(queue)
        workers = len(links) + self._starting()
        level = -(-(waiting + sum([len(link.entries) for link in links])) // workers)
        if bounded and waiting < len(links) and queue[0].session.exhausted:
            level = 1  # the input's end: no item waits in a worker while another worker is idle
        for link in sorted(links, key=_load) if len(links) > 1 else links:
            most = min(level, link.ahead.window) if bounded else level
            has = len(link.entries)
            if bounded and has > most // 2:
                continue  # the worker has enough: one large message costs less than several small ones
            if most > has and queue:
                self._send(queue, link, most - has)

    def _send(self, queue: deque[Entry], link: Link, count: int) -> None:
        batch: list[Entry] = []
        session = None  # of the entries in `batch`; None if no other may join them
        while queue and count:
            entry = queue.popleft()
            if entry.future.done():  # it was cancelled
                continue
            if entry.session is not session or entry.alone:
                if batch:
                    link.send(batch[0].session, batch)
                    batch = []
                session = None if entry.alone else entry.session
            batch.append(entry)
            count -= 1
        if batch:
            link.send(batch[0].session, batch)

    def __repr__(self) -> str:
        return (
            f"<Mailbox: {len(self._plain)} plain, {len(self._coroutines)} coroutines, {len(self._suspects)} suspects>"
        )


def _load(link: Link) -> int:
    return len(link.entries)
