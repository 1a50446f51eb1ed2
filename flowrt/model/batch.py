"""Records of a batch: the batch, its items, its hedges and the slots that they run in."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, Literal

from flowrt._util.random_ids import random_id
from flowrt.attribution.ledger import LOOP_BLOCKED, Ledger
from flowrt.attribution.speedup import Speedup, longest_waits, speedup_in_threads, speedup_less_delays
from flowrt.model.result import STATUSES, BatchResult, SparseAttribute

if TYPE_CHECKING:
    import asyncio

    from flowrt._util.cpu_time import CpuTime

__all__ = ["BatchRecord", "ItemRecord", "Slot", "UnexportedIds", "make_record"]

BatchStatus = Literal["running", "ok", "failed", "cancelled"]

_OUTCOME: Final = ("error", "error_type", "exception", "_metadata", "beside")  # of an attempt
_NO_ITEMS: Final[dict[str, int]] = dict.fromkeys(STATUSES, 0)


class Slot:
    """Position in which items run, one after another; a batch has `max_concurrency` of them.

    Attributes:
        item: The item that runs in the slot, or None; `task` is its task.
        starter: The task that started the item's task eagerly, until the item waits for the first time; else None.
        place: Index in the batch's list of slots, unless another slot has been removed from the list meanwhile.
        cancelled_ns: When the item was cancelled for exceeding its time limit, by the batch's clock; else 0.
        abandoned: True if the item did not end within the grace period, and another slot has replaced this one.
        journaling: True while the item, which has ended, is being written to the journal.
    """

    __slots__ = ("abandoned", "cancelled_ns", "item", "journaling", "place", "starter", "task")

    def __init__(self) -> None:
        self.item: ItemRecord | None = None
        self.task: asyncio.Task[None] | None = None
        self.starter: asyncio.Task[None] | None = None
        self.cancelled_ns = self.place = 0
        self.abandoned = self.journaling = False


class BatchRecord:
    """Record of one run of a node over many items.

    Attributes:
        name: The processor's name, the `batch` label.
        node_id: The node's id, the `node` label.
        node_type: The node's type.
        expected: Number of inputs, or None if it is not known beforehand.
        limit: The concurrency limit in force.
        slots: The slots in use.
        counts: Number of items that ended, by status.
        pulled: Number of inputs pulled from the source.
        own_tasks: True if each item runs in a task, and so in a context, of its own.
        starts_at_once: True if an item's first attempt starts when the item is pulled.
        latest: The last item that got a slot.
        paused_ns: Start of the current pause, by the monotonic clock; 0 without one.
        returned_ns: When an item last got a slot for a further attempt, which a policy may still delay.
        cpu_time: CPU and wall time of the attempts that have ended, if they run in threads, else None.
        cut_off: Error of a batch that was ended before its input, so that inputs not read have no result; else None.
        in_process: True if attempts run in this process, on the loop or in threads.
        plain_workers: Number of remote workers that run one item of the batch at a time, or 0.
        ledger: Wall time by cause, or None.
        service_ns: Sum of the attempts' service times at the end, if a ledger and metrics are kept, else 0.
        queued: Number of items that wait for another attempt, a rate limit or an open circuit.
        reruns: Number of attempts that were run again because their worker process ended.
        restored: Number of pulled items that an earlier run had finished, by the journal.
        cached: Number of items whose output came from the cache.
        unstarted: Number of inputs that were cancelled in bulk without having been started.
        status: `running`, then `ok` (every item ok), `failed` (some not) or `cancelled` (the batch was stopped).
        started_ns: When the batch started, by the monotonic clock.
        finished_ns: When the batch ended, by the monotonic clock.
        clock: The monotonic clock, in nanoseconds; any thread may read it.
        epoch_offset_ns: Nanoseconds to add to the monotonic clock for the time since 1970.
        limit_change: The latest change of the limit.
        circuit: The latest change of the circuit breaker's state.
        redact: Removes secrets from texts that telemetry shows; None for the default.
        shard: The metrics instrument's own handle.
        span: The tracing instrument's own handle.
        workflow: The WorkflowContext of the items while the batch runs, made when an item needs one.
    """

    __slots__ = (
        "__weakref__",
        "_batch_id",
        "_speedup",
        "cached",
        "circuit",
        "clock",
        "counts",
        "cpu_time",
        "cut_off",
        "epoch_offset_ns",
        "expected",
        "finished_ns",
        "in_process",
        "latest",
        "ledger",
        "limit",
        "limit_change",
        "name",
        "node_id",
        "node_type",
        "own_tasks",
        "paused_ns",
        "plain_workers",
        "pulled",
        "queued",
        "redact",
        "reruns",
        "restored",
        "returned_ns",
        "service_ns",
        "shard",
        "slots",
        "span",
        "started_ns",
        "starts_at_once",
        "status",
        "unstarted",
        "workflow",
    )

    def __init__(
        self,
        *,
        name: str,
        node_id: str,
        node_type: str,
        limit: int,
        batch_id: str | None = None,
        expected: int | None = None,
        keeps_ledger: bool = False,
        own_tasks: bool = False,
        starts_at_once: bool = False,
        started_ns: int = 0,
        epoch_offset_ns: int = 0,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:
        self.name = name
        self.node_id = node_id
        self.node_type = node_type
        self._batch_id = batch_id
        self.expected = expected
        self.limit = limit
        self.slots: list[Slot] = []
        self.counts = _NO_ITEMS.copy()
        self.own_tasks = own_tasks
        self.starts_at_once = starts_at_once
        self.latest: ItemRecord | None = None
        self.pulled = self.paused_ns = self.returned_ns = 0
        self.cpu_time: CpuTime | None = None
        self.cut_off: Exception | None = None
        self.in_process = True
        self.plain_workers = self.service_ns = 0
        self.ledger = Ledger(self) if keeps_ledger else None
        self._speedup: Speedup | None = None
        self.queued = self.restored = self.reruns = self.cached = self.unstarted = 0
        self.status: BatchStatus = "running"
        self.started_ns = started_ns
        self.finished_ns = 0
        self.clock = clock
        self.epoch_offset_ns = epoch_offset_ns
        self.limit_change: Any = None
        self.circuit: Any = None
        self.redact: Callable[[str], str] | None = None
        self.shard: Any = None
        self.span: Any = None
        self.workflow: Any = None

    @property
    def batch_id(self) -> str:
        """Random id of this run, 32 hexadecimal digits; made at the first access."""
        if self._batch_id is None:
            self._batch_id = random_id()
        return self._batch_id

    @property
    def speedup(self) -> Speedup | None:
        """Speedup over running the items one after another, or None while unknown; computed at the first access."""
        wall_ns = self.finished_ns - self.started_ns
        if self._speedup is None and self.service_ns and wall_ns > 0 and self.ledger is not None:
            self._speedup = self._compute_speedup(self.ledger, wall_ns / 1e9)
        return self._speedup

    @speedup.setter
    def speedup(self, speedup: Speedup) -> None:
        self._speedup = speedup

    def _compute_speedup(self, ledger: Ledger, wall_s: float) -> Speedup:
        service_s, busy_ns = self.service_ns / 1e9, self.in_process * ledger.busy_ns
        waits_s = longest_waits(busy_ns, service_s / wall_s, self.limit, self.pulled)
        found = speedup_less_delays(service_s, wall_s, ledger.known_delays, ledger.running_ns / 1e9, waits_s)
        cpu, blocked_s = self.cpu_time, ledger.charged[LOOP_BLOCKED] / 1e9
        return found if cpu is None else speedup_in_threads(found, cpu, wall_s, blocked_s)

    def __getstate__(self) -> dict[str, Any]:
        """Return the picklable state: all but the clock and the parts of the running batch."""
        transient = ("__weakref__", "clock", "latest", "redact", "shard", "slots", "span", "workflow")
        return {name: getattr(self, name) for name in self.__slots__ if name not in transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.clock, self.slots = perf_counter_ns, []
        self.latest = self.redact = self.shard = self.span = self.workflow = None
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def completed(self) -> int:
        """Number of items with a final status."""
        return sum(self.counts.values())

    @property
    def begun(self) -> int:
        """Number of pulled items that no earlier run had finished; budgets of retries and hedges are shares of it."""
        return self.pulled - self.restored

    @property
    def latest_ns(self) -> int:
        """When an item last got a slot; the batch's start before the first one."""
        item = self.latest
        return self.started_ns if item is None else max(item.pulled_ns, item.started_ns, self.returned_ns)

    @property
    def inflight(self) -> int:
        """Number of items in slots."""
        return sum(slot.item is not None for slot in self.slots.copy())

    def __repr__(self) -> str:
        of = "?" if self.expected is None else self.expected
        return f"<BatchRecord {self.name!r}: {self.status}, {self.completed} of {of} done, {self.inflight} in flight>"


State = Literal["running", "ok", "failed", "timed_out", "cancelled", "resumed"]


class UnexportedIds(bytes):
    """Ids of a trace and a span that, as far as is known, will not be exported."""


class ItemRecord(BatchResult[Any, Any]):
    """Record of one item from its pull to its end, when the record becomes the item's result.

    Times are nanoseconds of the batch's monotonic clock; 0 means not yet.

    Attributes:
        batch: The item's batch.
        index: Index in the input.
        input_data: The object that the source yielded, not a copy.
        pulled_ns: When the item was pulled from the source.
        status: `running`, then one of the final statuses.
        started_ns: When the latest attempt started; 0 while the item waits for one.
        first_started_ns: When the first attempt started, if there were several, else 0.
        finished_ns: When the latest attempt, or the item, ended.
        held_ns: Nanoseconds for which the item was ready while other code blocked the loop, as far as is known.
        stalled_ns: The same, as of the last reported stall; 0 if there was none.
        retry: The latest decision to try the item again.
        backoff_ns: Total delay between the attempts, in nanoseconds.
        beside: Number of the item's own latest attempt if it has been hedged, else 0.
        hedge: The last hedge that has ended.
        hedges: Number of attempts that were hedges.
        probe_ns: When the attempt was admitted as a probe of a half-open circuit, else 0.
        rate_wait_ns: Total wait for rate limits and an open circuit, in nanoseconds.
        ticket: The rate limits' own handle.
        trace: The telemetry's own handle. None if the item is not traced; an object with the attribute `ids` while it
            runs; in the end the ids themselves, as `UnexportedIds` if the span will not be exported.
        uncancellable: True if the item did not end within the grace period after it was cancelled.
    """

    __slots__ = ("batch", "finished_ns", "pulled_ns", "started_ns", "trace")

    batch: BatchRecord
    pulled_ns: int
    started_ns: int
    finished_ns: int
    trace: Any
    status: State  # type: ignore[assignment]  # it is `running` at first
    backoff_ns = SparseAttribute[int](0)
    beside = SparseAttribute[int](0)
    first_started_ns = SparseAttribute[int](0)
    hedge = SparseAttribute[Any](None)
    hedges = SparseAttribute[int](0)
    held_ns = SparseAttribute[int](0)
    probe_ns = SparseAttribute[int](0)
    rate_wait_ns = SparseAttribute[int](0)
    retry = SparseAttribute[Any](None)
    stalled_ns = SparseAttribute[int](0)
    ticket = SparseAttribute[Any](None)
    uncancellable = SparseAttribute[bool](False)

    if not TYPE_CHECKING:
        __init__ = object.__init__  # `make_record` sets the fields

    @property
    def execution_time(self) -> float:
        """Service time of the last attempt, in seconds; for a restored item, the time in the earlier run."""
        return (self.finished_ns - self.started_ns) / 1e9 if self.started_ns else self._execution_time

    @property
    def held_time(self) -> float:
        """How long the item was ready to continue while other code blocked the loop, in seconds, as far as is known."""
        return self.held_ns / 1e9

    @property
    def queue_wait_ns(self) -> int:
        """Nanoseconds from the pull to the first attempt, or -1 without an attempt."""
        started_ns = self.started_ns if self.attempts < 2 and self.started_ns else self.first_started_ns
        return started_ns - self.pulled_ns if started_ns else -1

    @property
    def queue_time(self) -> float:
        """Seconds from the pull to the first attempt; 0 without an attempt."""
        return max(0, self.queue_wait_ns) / 1e9

    @property
    def ids(self) -> bytes:
        """Trace id in the first 16 bytes and span id in the last 8; empty if the item is not traced."""
        trace = self.trace
        if trace is None:
            return b""
        ids: bytes = trace if isinstance(trace, bytes) else trace.ids
        return ids

    @property
    def trace_id(self) -> str | None:
        """Trace id, 32 hexadecimal digits, or None if the item is not traced."""
        ids = self.ids
        return ids[:16].hex() if ids else None

    @property
    def span_id(self) -> str | None:
        """Span id, 16 hexadecimal digits, or None if the item is not traced."""
        ids = self.ids
        return ids[-8:].hex() if ids else None

    def schedule_retry(self, retry: Any) -> None:
        """Record the decision to try the item again after an attempt has ended."""
        values = self._sparse
        if values is None:
            values = self._sparse = {}
        values["retry"] = retry
        if retry.delay_ns:
            values["backoff_ns"] = values.get("backoff_ns", 0) + retry.delay_ns
        values["first_started_ns"] = values.get("first_started_ns") or self.started_ns

    def forget_outcome(self) -> None:
        """Clear the outcome of the previous attempt."""
        self.output = None
        if (values := self._sparse) is not None:
            for name in _OUTCOME:
                if name in values:
                    del values[name]

    def restore(self, before: BatchResult) -> None:
        """Copy the outcome of an earlier run, but not the number of attempts, since this run makes none.

        Args:
            before: The result of the earlier run.
        """
        self.status = before.status
        self.output = before.output
        self._sparse = {**(self._sparse or {}), **(before._sparse or {})}  # noqa: SLF001  # error, its type, the time

    def clone(self) -> ItemRecord:
        """Return a copy of this record."""
        twin = make_record(self.batch, self.index, self.input_data, self.pulled_ns)
        for name in (*BatchResult.__slots__, *ItemRecord.__slots__):
            setattr(twin, name, getattr(self, name))
        twin._sparse = None if self._sparse is None else self._sparse.copy()  # noqa: SLF001  # of this class
        return twin


def make_record(batch: BatchRecord, index: int, input_data: Any, pulled_ns: int) -> ItemRecord:
    """Make the record of an item. A function call costs less than a call of `__init__`.

    Args:
        batch: The item's batch.
        index: Index in the input.
        input_data: The object that the source yielded, not a copy.
        pulled_ns: When the item was pulled from the source, by the batch's clock.
    """
    item = ItemRecord()  # type: ignore[call-arg]  # for a type checker it has the constructor of BatchResult
    item.batch = batch
    item.index = index
    item.input_data = input_data
    item.pulled_ns = pulled_ns
    item.started_ns = item.finished_ns = item.attempts = 0
    item.status = "running"
    item.output = None
    item.trace = None
    item._sparse = None  # noqa: SLF001  # of this module
    return item
