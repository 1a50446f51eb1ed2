"""Slot of a pool of workers: a sequence of workers, one at a time."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import Final

from flowrt.executors.remote_link import RemoteLink
from flowrt.executors.transport import Transport
from flowrt.executors.workers import COUNTS, RESTART_REASONS, LastCrash, WorkerState

__all__ = ["WorkerSlot"]

_LAST_LINES: Final = 20


class WorkerSlot:
    """Slot for one worker at a time.

    Args:
        name: Name of the slot, such as "w0".

    Attributes:
        link: The worker that takes items.
        spare: The worker that replaces `link` once it is ready.
        retired: Workers that end once they are idle.
        starting: The process that is being started.
        replaces: Reason for which the starting process replaces `link`, or None.
        last_crash: The last crash of a worker of this slot, or None.
        last_lines: The last lines that the latest worker wrote to its standard error.
        requested_s: When the latest worker was requested, by the monotonic clock.
        restarts: Number of workers that were replaced, by reason.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: RemoteLink | None = None
        self.spare: RemoteLink | None = None
        self.retired: list[RemoteLink] = []
        self.starting: Future[Transport] | None = None
        self.replaces: str | None = None
        self.requested_s = -1e9
        self.last_crash: LastCrash | None = None
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.restarts = dict.fromkeys(RESTART_REASONS, 0)

    def links(self) -> list[RemoteLink]:
        """Return all workers of the slot."""
        return [link for link in (self.link, self.spare, *self.retired) if link is not None]

    def state(self, kind: str, *, in_use: bool) -> WorkerState:
        """Return the slot's current state. Any thread may call this method.

        Args:
            kind: The kind of workers.
            in_use: True while a batch uses the pool.
        """
        link = self.link
        transport = None if link is None else link.transport
        return WorkerState(
            executor=kind,
            slot=self.name,
            pid=0 if transport is None else transport.pid,
            host="" if transport is None else transport.host,
            ready=link is not None and link.ready,
            in_use=in_use,
            busy_seconds=COUNTS.busy_ns.get(self.name, 0) / 1e9,
            inflight=sum(len(each.entries) for each in self.links()),
            resident_bytes=0 if link is None else link.resident_bytes,
            restarts=dict(self.restarts),
            last_crash=self.last_crash,
        )
