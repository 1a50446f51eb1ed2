"""One run of a node over many items, and the slots that they run in."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Literal

from flowrt.records.result import STATUSES

if TYPE_CHECKING:
    import asyncio

    from flowrt.ledger import Ledger
    from flowrt.records.item import ItemRecord
    from flowrt.speedup import Speedup

__all__ = ["BatchRecord", "Slot"]

BatchStatus = Literal["running", "ok", "failed", "cancelled"]


class Slot:
    """One place for an item to run in; there are `max_concurrency` of them.

    Attributes:
        item: The item that is running here, or None.
        task: The worker that serves the slot.
        cancelled_ns: When the item was told to stop because its time was over, else 0.
        abandoned: The item did not stop when told to; the slot has been given to another worker.
        keeping: The item has ended and waits for its journal.
    """

    __slots__ = ("abandoned", "cancelled_ns", "item", "keeping", "task")

    def __init__(self) -> None:
        self.item: ItemRecord | None = None
        self.task: asyncio.Task[None] | None = None
        self.cancelled_ns = 0
        self.abandoned = False
        self.keeping = False


class BatchRecord:
    """One run of a node over many items.

    Attributes:
        name: The processor's name, the `batch` label.
        node_id: The node's id, the `node` label.
        node_type: The node's type.
        batch_id: A random id of this run, 32 hexadecimal digits.
        expected: How many items the input holds, or None when that is not known beforehand.
        limit: The concurrency limit in force.
        slots: The slots now served by a worker.
        counts: Items that ended, by status.
        pulled: Items pulled from the source.
        prompt: Whether the first attempt at an item begins as the item is pulled.
        latest: The item that got a slot last.
        returned_ns: When an item last got a slot for a further attempt, which may have to wait in it before it starts.
        ledger: What holds the batch back, where account of it is kept.
        speedup: How many times as long it would have taken one item after another, once that is known.
        queued: Items that wait for another attempt, a rate limit or an open circuit.
        restored: Items of those pulled that an earlier run had finished.
        status: `running`, then `ok` (every item ok), `failed` (some not) or `cancelled` (it was stopped).
        started_ns: When it started, by the monotonic clock.
        finished_ns: When it ended.
        clock: The monotonic clock, in nanoseconds; any thread may read it.
        epoch_offset_ns: Nanoseconds to add to the monotonic clock for the time since 1970.
        limit_change: The latest change of the limit.
        circuit: The latest change of the circuit breaker's state.
        shard: The metrics instrument's own handle.
        span: The tracing instrument's own handle.
    """

    __slots__ = (
        "__weakref__",
        "batch_id",
        "circuit",
        "clock",
        "counts",
        "epoch_offset_ns",
        "expected",
        "finished_ns",
        "latest",
        "ledger",
        "limit",
        "limit_change",
        "name",
        "node_id",
        "node_type",
        "prompt",
        "pulled",
        "queued",
        "restored",
        "returned_ns",
        "shard",
        "slots",
        "span",
        "speedup",
        "started_ns",
        "status",
    )

    def __init__(
        self,
        *,
        name: str,
        node_id: str,
        node_type: str,
        batch_id: str,
        limit: int,
        expected: int | None = None,
        started_ns: int = 0,
        epoch_offset_ns: int = 0,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:
        self.name = name
        self.node_id = node_id
        self.node_type = node_type
        self.batch_id = batch_id
        self.expected = expected
        self.limit = limit
        self.slots: list[Slot] = []
        self.counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.prompt = False
        self.pulled = 0
        self.latest: ItemRecord | None = None
        self.returned_ns = 0
        self.ledger: Ledger | None = None
        self.speedup: Speedup | None = None
        self.queued = 0
        self.restored = 0
        self.status: BatchStatus = "running"
        self.started_ns = started_ns
        self.finished_ns = 0
        self.clock = clock
        self.epoch_offset_ns = epoch_offset_ns
        self.limit_change: Any = None
        self.circuit: Any = None
        self.shard: Any = None
        self.span: Any = None

    @property
    def completed(self) -> int:
        """Items that reached a terminal status."""
        return sum(self.counts.values())

    @property
    def begun(self) -> int:
        """Items pulled that were for this run to do: what its retries and hedges are a share of."""
        return self.pulled - self.restored

    @property
    def latest_ns(self) -> int:
        """When an item got a slot last; the batch's start while none has."""
        item = self.latest
        return self.started_ns if item is None else max(item.pulled_ns, item.started_ns, self.returned_ns)

    @property
    def inflight(self) -> int:
        """Items in a slot now."""
        return sum(slot.item is not None for slot in self.slots.copy())

    def __repr__(self) -> str:
        of = "?" if self.expected is None else self.expected
        return f"<BatchRecord {self.name!r}: {self.status}, {self.completed} of {of} done, {self.inflight} in flight>"
