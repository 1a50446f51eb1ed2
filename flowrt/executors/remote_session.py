"""Session of one batch in a pool of workers."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any, Protocol

from flowrt._util.clock import Clock
from flowrt.executors.mailbox import Entry, Item, Session
from flowrt.executors.pickling import dumps_alone
from flowrt.executors.threads import blocking_call
from flowrt.executors.workers import settings_for_workers
from flowrt.model import BatchRecord
from flowrt.model.node import BaseNode, NodeContext, WorkflowContext

__all__ = ["RemoteSession"]

_POLL_S = 0.01  # until it is clear whether a cancelled item has started


class Attempts(Protocol):
    """Interface of the worker pool."""

    clock: Clock

    @property
    def ready(self) -> bool:
        """True if any worker can take items."""

    def submit(self, entry: Entry) -> None:
        """Queue an attempt."""

    def close_session(self, session: Session) -> None:
        """Close a batch's session in the workers."""


class RemoteSession:
    """One batch's attempts in a pool of workers.

    Args:
        pool: The workers.
        node: The node.
        slots: Most attempts at once.
        workers: Number of workers.

    Attributes:
        number: The session's number in the pool.
        blocking: True if the node is a plain function.
        opening: The pickled node and workflow, for each worker that gets an item of the batch.

    Raises:
        TypeError: The node cannot be pickled.
    """

    def __init__(self, pool: Attempts, number: int, node: BaseNode, slots: int, workers: int) -> None:
        self.number = number
        self.slots = slots
        self.blocking = blocking_call(node) is not None
        self.opening: Any = (dumps_alone(node, f"node {node.node_id!r}"), self.blocking, settings_for_workers(), None)
        self._node = node
        self._workers = workers
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._batch: BatchRecord | None = None
        self._cancelled: deque[tuple[Entry, str]] = deque()  # each with the reason to count if its worker is killed

    @property
    def exhausted(self) -> bool:
        """True if the batch's inputs are known to be exhausted."""
        batch = self._batch
        return batch is not None and batch.expected is not None and batch.pulled >= batch.expected

    def begin(self, workflow: WorkflowContext) -> None:
        """Set the workflow's context, of which each worker gets a copy.

        Raises:
            TypeError: The context cannot be pickled.
        """
        data = dumps_alone((workflow.workflow_id, workflow.global_variables), "the workflow context")
        self.opening = (*self.opening[:3], data)

    async def submit(self, item: Item, *, own: bool = True) -> Any:
        """Run one attempt in a worker; return the node's value or raise its exception.

        Args:
            item: The item, whose `attempts` count this one.
            own: False for a hedge.
        """
        if self._batch is not item.batch:
            self._batch = batch = item.batch
            if batch is not None and self.blocking:
                batch.plain_workers = self._workers
            self.workers_changed(ready=self._pool.ready)
        entry = Entry(item, self, own, future := self._loop.create_future(), item.attempts)
        if own:
            item.started_ns = 0  # until it starts in the worker
        self._pool.submit(entry)
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                await self._end(entry)
            raise
        finally:
            if own and (entry.service_ns or not item.started_ns):
                # from its end, so that the time is the service time whatever the driver did meanwhile
                item.started_ns = max(self._pool.clock() - entry.service_ns, item.pulled_ns)

    def workers_changed(self, *, ready: bool) -> None:
        """Record in the batch's ledger whether any worker can take items."""
        if self._batch is not None and self._batch.ledger is not None:
            self._batch.ledger.workers_changed(self._pool.clock(), ready=ready)

    async def _end(self, entry: Entry) -> None:
        """Wait until a cancelled attempt has ended in its worker, or was abandoned."""
        link = entry.link
        if link is None or entry.number not in link.entries:
            return
        entry.ended = self._loop.create_future()
        reason = "timeout" if _is_over_its_time(entry.item) else "cancelled"
        self._cancelled.append((entry, reason))
        asked = False
        while not entry.ended.done():
            if self.blocking and link.transport.running() == entry.number:
                link.kill(reason)
            elif not asked:
                link.cancel(entry)
                asked = True
            with suppress(asyncio.CancelledError):  # it may be cancelled again, by the batch's timeout
                await asyncio.wait([entry.ended], timeout=_POLL_S if self.blocking else None)
        with suppress(ValueError):
            self._cancelled.remove((entry, reason))

    async def invoke(self, node_context: NodeContext, workflow_context: WorkflowContext) -> Any:
        """Run one attempt without a record, such as one of a sample before the batch."""
        self.begin(workflow_context)
        return await self.submit(_Sample(node_context))

    def abandon_one(self) -> None:
        """Kill the worker of the earliest cancelled attempt that has not ended."""
        if self._cancelled:
            entry, reason = self._cancelled.popleft()
            if entry.link is not None:
                entry.link.kill(reason)
            if entry.ended is not None and not entry.ended.done():
                entry.ended.set_result(None)

    def close(self) -> None:
        """End the session; the workers stay warm."""
        self._pool.close_session(self)


def _is_over_its_time(item: Item) -> bool:
    """True if an item was cancelled because of its time limit."""
    return item.batch is not None and any(slot.item is item and slot.cancelled_ns for slot in item.batch.slots)


class _Sample:
    """Stand-in for an item's record outside of a batch."""

    def __init__(self, context: NodeContext) -> None:
        self.batch: BatchRecord | None = None
        self.input_data = context.input_data
        self.index = context.index or 0
        self.attempts = context.attempt
        self.pulled_ns = self.started_ns = 0
        self.trace: Any = None
