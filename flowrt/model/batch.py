"""Records of a batch: the batch, its items, its hedges and the slots that they run in."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Literal

from flowrt.model.result import STATUSES, BatchResult, SparseAttribute

if TYPE_CHECKING:
    import asyncio

    from flowrt._util.cpu_time import CpuTime
    from flowrt.attribution.ledger import Ledger
    from flowrt.attribution.speedup import Speedup

__all__ = ["BatchRecord", "HedgeOutcome", "HedgeRecord", "ItemRecord", "Slot"]

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
        own_tasks: True if each item runs in a task, and so in a context, of its own.
        prompt: Whether the first attempt at an item begins as the item is pulled.
        latest: The item that got a slot last.
        returned_ns: When an item last got a slot for a further attempt, which may have to wait in it before it starts.
        cpu_time: CPU and wall time of the attempts that have ended, if they run in threads, else None.
        ledger: What holds the batch back, where account of it is kept.
        speedup: How many times as long it would have taken one item after another, once that is known.
        queued: Items that wait for another attempt, a rate limit or an open circuit.
        restored: Items of those pulled that an earlier run had finished.
        unstarted: Inputs that were cancelled in bulk without having been started.
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
        "cpu_time",
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
        "own_tasks",
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
        "unstarted",
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
        self.own_tasks = False
        self.prompt = False
        self.pulled = 0
        self.latest: ItemRecord | None = None
        self.returned_ns = 0
        self.cpu_time: CpuTime | None = None
        self.ledger: Ledger | None = None
        self.speedup: Speedup | None = None
        self.queued = 0
        self.restored = 0
        self.unstarted = 0
        self.status: BatchStatus = "running"
        self.started_ns = started_ns
        self.finished_ns = 0
        self.clock = clock
        self.epoch_offset_ns = epoch_offset_ns
        self.limit_change: Any = None
        self.circuit: Any = None
        self.shard: Any = None
        self.span: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """What another process can use: all but the clock and what belongs to the running batch."""
        transient = ("__weakref__", "clock", "latest", "shard", "slots", "span")
        return {name: getattr(self, name) for name in self.__slots__ if name not in transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.clock, self.slots = perf_counter_ns, []
        self.latest = self.shard = self.span = None
        for name, value in state.items():
            setattr(self, name, value)

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


State = Literal["running", "ok", "failed", "timed_out", "cancelled", "resumed"]

HedgeOutcome = Literal["won", "lost", "failed"]
"""What became of a hedge: it was first, the item's own attempt was (or both were cut short), or it failed."""


class ItemRecord(BatchResult):
    """One item's way through a batch, and in the end its result.

    Times are nanoseconds of the batch's monotonic clock, 0 for not yet.

    Args:
        batch: The batch it belongs to.
        index: Its place in the input.
        input_data: The input itself, the very object that the source gave.
        pulled_ns: When it was pulled from the source.

    Attributes:
        status: `running`, then one of the terminal statuses.
        started_ns: When its latest attempt started; 0 while it waits for one.
        first_started_ns: When its first attempt started, where there were several.
        finished_ns: When it ended.
        held_ns: How long it was ready to go on while something else blocked the loop, as far as is known.
        stalled_ns: That again, as it was after the last stall that is told of; 0 where there was none.
        retry: The decision by which it is tried again, or was last.
        backoff_ns: How long it was told to wait between attempts, in all.
        beside: The number of its latest attempt that is no hedge, where that has been hedged, else 0.
        hedge: Its hedge that ended last.
        hedges: How many of its attempts were hedges.
        rate_wait_ns: How long it waited for rate limits and an open circuit, in all.
        span: The tracing instrument's own handle.
        unkept: It was traced, and its span will not be exported, as far as is known.
        ticket: The rate limits' own handle.
        ids: Its trace's id in the first 16 bytes and its span's in the last 8; empty when not traced.
        uncancellable: It did not end within the grace period after it was cancelled.
    """

    __slots__ = ("batch", "finished_ns", "ids", "pulled_ns", "span", "started_ns")

    status: State  # type: ignore[assignment]  # it is `running` at first
    backoff_ns = SparseAttribute[int](0)
    beside = SparseAttribute[int](0)
    first_started_ns = SparseAttribute[int](0)
    hedge = SparseAttribute[Any](None)
    hedges = SparseAttribute[int](0)
    held_ns = SparseAttribute[int](0)
    rate_wait_ns = SparseAttribute[int](0)
    retry = SparseAttribute[Any](None)
    stalled_ns = SparseAttribute[int](0)
    ticket = SparseAttribute[Any](None)
    uncancellable = SparseAttribute[bool](False)
    unkept = SparseAttribute[bool](False)

    def __init__(self, batch: BatchRecord, index: int, input_data: Any, pulled_ns: int) -> None:
        self.batch = batch
        self.index = index
        self.input_data = input_data
        self.pulled_ns = pulled_ns
        self.started_ns = 0
        self.finished_ns = 0
        self.attempts = 0
        self.ids = b""
        self.status = "running"
        self.output: Any = None
        self.span: Any = None
        self._sparse = None

    @property
    def execution_time(self) -> float:
        """Service time of the last attempt, in seconds; of a restored item, as it was then."""
        return (self.finished_ns - self.started_ns) / 1e9 if self.started_ns else self._execution_time

    @property
    def held_time(self) -> float:
        """How long it was ready to go on while something else blocked the loop, in seconds, as far as is known."""
        return self.held_ns / 1e9

    @property
    def queue_wait_ns(self) -> int:
        """From being pulled to its first attempt, or -1 where it never had one."""
        started_ns = self.started_ns if self.attempts < 2 and self.started_ns else self.first_started_ns
        return started_ns - self.pulled_ns if started_ns else -1

    @property
    def queue_time(self) -> float:
        """From being pulled to its first attempt, in seconds."""
        return max(0, self.queue_wait_ns) / 1e9

    @property
    def trace_id(self) -> str | None:
        """Its trace's id, 32 hexadecimal digits, or None when not traced."""
        return self.ids[:16].hex() if self.ids else None

    @property
    def span_id(self) -> str | None:
        """Its span's id, 16 hexadecimal digits, or None when not traced."""
        return self.ids[-8:].hex() if self.ids else None

    def forget_outcome(self) -> None:
        """Begin another attempt with nothing left of the one before."""
        self.output = self._metadata = self.error = self.error_type = self.exception = None
        self.beside = 0

    def restore(self, before: BatchResult) -> None:
        """End as the item did in an earlier run, all but the attempts: there were none in this one.

        Args:
            before: How it ended then.
        """
        self.status = before.status
        self.output = before.output
        self.error = before.error
        self.error_type = before.error_type
        self._execution_time = before.execution_time

    def clone(self) -> ItemRecord:
        """Another record that says the same."""
        twin = ItemRecord(self.batch, self.index, self.input_data, self.pulled_ns)
        for name in (*BatchResult.__slots__, *ItemRecord.__slots__):
            setattr(twin, name, getattr(self, name))
        twin._sparse = None if self._sparse is None else self._sparse.copy()
        return twin


class HedgeRecord:
    """A further attempt that ran beside an item's own.

    Args:
        number: Which of the item's attempts it was.
        started_ns: When it started, by the batch's clock.
        finished_ns: When it ended, or was given up.
        outcome: `won`, `lost` or `failed`.
        result: Of one that failed: its error.
    """

    __slots__ = ("finished_ns", "number", "outcome", "result", "started_ns")

    def __init__(
        self, number: int, started_ns: int, finished_ns: int, outcome: HedgeOutcome, result: ItemRecord
    ) -> None:
        self.number = number
        self.started_ns = started_ns
        self.finished_ns = finished_ns
        self.outcome = outcome
        self.result = result

    def __repr__(self) -> str:
        return f"<HedgeRecord: attempt {self.number} {self.outcome}>"
