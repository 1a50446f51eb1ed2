"""What is known about a batch and each of its items.

One `ItemRecord` per item carries its state and its times, written by the engine alone. Results, spans, metrics
and logs all read that record; nobody keeps a second clock.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import asyncio

__all__ = ["STATUSES", "BatchRecord", "BatchResult", "ItemRecord", "Rejected", "Slot", "Status"]

Status = Literal["ok", "failed", "timed_out", "cancelled", "resumed"]
"""How an item ended."""

STATUSES: Final[tuple[Status, ...]] = ("ok", "failed", "timed_out", "cancelled", "resumed")

State = Literal["running", "ok", "failed", "timed_out", "cancelled", "resumed"]
BatchStatus = Literal["running", "ok", "failed", "cancelled"]


_SPAN_ID_MASK: Final = (1 << 64) - 1
_UNSTORED: Final = {
    "backoff_ns": 0,
    "error": None,
    "error_type": None,
    "exception": None,
    "finished_ns": 0,
    "first_started_ns": 0,
    "kept": False,
    "metadata": None,
    "output": None,
    "rate_wait_ns": 0,
    "retry": None,
    "span": None,
    "started_ns": 0,
    "state": "running",
    "ticket": None,
}


class Rejected:
    """An input that could not be read: it takes its place in the batch as a failed item and reaches no node.

    Args:
        error: What is wrong and where, for the item's `error`.
        error_type: The error's low-cardinality name.
        input_data: As much of the input as there is to show.
    """

    __slots__ = ("error", "error_type", "input_data")

    def __init__(self, error: str, error_type: str = "RejectedInput", input_data: Any = None) -> None:
        self.error = error
        self.error_type = error_type
        self.input_data = input_data

    def __repr__(self) -> str:
        return f"Rejected({self.error!r})"


class ItemRecord:
    """One item's way through a batch; times are nanoseconds of the batch's monotonic clock, 0 for not yet.

    Attributes:
        batch: The batch it belongs to.
        index: Its place in the input.
        input_data: The input itself, the very object that the source gave.
        state: `running`, then one of the terminal statuses.
        attempts: How many attempts were started.
        pulled_ns: When it was pulled from the source.
        started_ns: When its latest attempt started; 0 while it waits for one.
        first_started_ns: When its first attempt started, where there were several.
        retry: The decision by which it is tried again, or was last.
        backoff_ns: How long it was told to wait between attempts, in all.
        rate_wait_ns: How long it waited for rate limits and an open circuit, in all.
        finished_ns: When it ended.
        span: The tracing instrument's own handle.
        kept: Its span will be exported, as far as is known.
        ticket: The rate limits' own handle.
        ids: Its trace's id in the upper 128 bits and its span's in the lower 64; 0 when not traced.
        uncancellable: It did not end within the grace period after it was cancelled.
    """

    __slots__ = (
        "attempts",
        "backoff_ns",
        "batch",
        "error",
        "error_type",
        "exception",
        "finished_ns",
        "first_started_ns",
        "ids",
        "index",
        "input_data",
        "kept",
        "metadata",
        "output",
        "pulled_ns",
        "rate_wait_ns",
        "retry",
        "span",
        "started_ns",
        "state",
        "ticket",
        "uncancellable",
    )

    backoff_ns: int
    error: str | None
    error_type: str | None
    exception: BaseException | None
    finished_ns: int
    first_started_ns: int
    kept: bool
    metadata: dict[str, Any] | None
    output: Any
    rate_wait_ns: int
    retry: Any
    span: Any
    started_ns: int
    state: State
    ticket: Any

    def __init__(self, batch: BatchRecord, index: int, input_data: Any, pulled_ns: int) -> None:
        self.batch = batch
        self.index = index
        self.input_data = input_data
        self.pulled_ns = pulled_ns
        self.attempts = 0
        self.ids = 0
        self.uncancellable = False

    if not TYPE_CHECKING:  # or a slip in a name would pass

        def __getattr__(self, name: str) -> Any:
            """What has not been stored yet, or never is for a success, is at its default."""
            try:
                return _UNSTORED[name]
            except KeyError:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    @property
    def queue_wait_ns(self) -> int:
        """From being pulled to its first attempt, or -1 where it never had one."""
        started_ns = self.started_ns if self.attempts < 2 and self.started_ns else self.first_started_ns
        return started_ns - self.pulled_ns if started_ns else -1

    @property
    def trace_id(self) -> str | None:
        """Its trace's id, 32 hexadecimal digits, or None when not traced."""
        return f"{self.ids >> 64:032x}" if self.ids else None

    @property
    def span_id(self) -> str | None:
        """Its span's id, 16 hexadecimal digits, or None when not traced."""
        return f"{self.ids & _SPAN_ID_MASK:016x}" if self.ids else None

    def __repr__(self) -> str:
        return f"<ItemRecord {self.index} of {self.batch.name!r}: {self.state}, attempts={self.attempts}>"


class Slot:
    """One place for an item to run in; there are `max_concurrency` of them.

    Attributes:
        item: The item that is running here, or None.
        task: The worker that serves the slot.
        cancelled_ns: When the item was told to stop because its time was over, else 0.
        abandoned: The item did not stop when told to; the slot has been given to another worker.
    """

    __slots__ = ("abandoned", "cancelled_ns", "item", "task")

    def __init__(self) -> None:
        self.item: ItemRecord | None = None
        self.task: asyncio.Task[None] | None = None
        self.cancelled_ns = 0
        self.abandoned = False


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
        queued: Items that wait for another attempt, a rate limit or an open circuit.
        status: `running`, then `ok` (every item ok), `failed` (some not) or `cancelled` (it was stopped).
        started_ns: When it started, by the monotonic clock.
        finished_ns: When it ended.
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
        "counts",
        "epoch_offset_ns",
        "expected",
        "finished_ns",
        "limit",
        "limit_change",
        "name",
        "node_id",
        "node_type",
        "pulled",
        "queued",
        "shard",
        "slots",
        "span",
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
    ) -> None:
        self.name = name
        self.node_id = node_id
        self.node_type = node_type
        self.batch_id = batch_id
        self.expected = expected
        self.limit = limit
        self.slots: list[Slot] = []
        self.counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.pulled = 0
        self.queued = 0
        self.status: BatchStatus = "running"
        self.started_ns = started_ns
        self.finished_ns = 0
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
    def inflight(self) -> int:
        """Items in a slot now."""
        return sum(slot.item is not None for slot in self.slots.copy())

    def __repr__(self) -> str:
        of = "?" if self.expected is None else self.expected
        return f"<BatchRecord {self.name!r}: {self.status}, {self.completed} of {of} done, {self.inflight} in flight>"


@dataclass(slots=True)
class BatchResult:
    """What became of one item.

    Attributes:
        index: Its place in the input.
        input_data: The input itself, unchanged by the node.
        success: Whether it ended `ok`.
        output: What the node gave; falsy outputs are outputs.
        error: Why it failed; never empty when `success` is false.
        execution_time: Service time of the last attempt, in seconds.
        status: `ok`, `failed`, `timed_out`, `cancelled` or `resumed`.
        error_type: The error's low-cardinality name, the same as on the metric and the span.
        exception: The exception itself, when there was one.
        attempts: How many attempts were started; 0 for an item that never ran.
        queue_time: From pulled to first start, in seconds.
        metadata: The metadata of the node's `NodeResult`.
        trace_id: 32 hexadecimal digits, or None when the item was not traced.
        span_id: 16 hexadecimal digits, or None when the item was not traced.
    """

    index: int
    input_data: Any
    success: bool
    output: Any = None
    error: str | None = None
    execution_time: float = 0.0
    status: Status = "ok"
    error_type: str | None = None
    exception: BaseException | None = None
    attempts: int = 0
    queue_time: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)
    trace_id: str | None = None
    span_id: str | None = None
    _ids: int = field(default=0, init=False, repr=False, compare=False)
    _service_ns: int = field(default=0, init=False, repr=False, compare=False)

    @staticmethod
    def of(item: ItemRecord) -> BatchResult:
        """The public face of a finished record.

        Made for every item, and kept for every item of a batch: what a success leaves at its default is not even
        stored, `__getattr__` gives it when it is asked for.
        """
        result: BatchResult = _new_result(BatchResult)
        result.index = item.index
        result.input_data = item.input_data
        result.output = item.output
        started_ns = item.started_ns
        if started_ns:
            result._service_ns = item.finished_ns - started_ns
        if started_ns is not item.pulled_ns:
            result.queue_time = max(0, item.queue_wait_ns) / 1e9
        if item.ids:
            result._ids = item.ids
        if item.metadata:
            result.metadata = item.metadata
        if item.attempts != 1:
            result.attempts = item.attempts
        if item.state != "ok":
            result.status = item.state  # type: ignore[assignment]  # terminal by now
            result.success = item.state == "resumed"
            result.error = item.error
            result.error_type = item.error_type
            result.exception = item.exception
        return result

    def __getattr__(self, name: str) -> Any:
        """The default of a field that `of` left out."""
        if name == "metadata":
            self.metadata = {}
            return self.metadata
        if name == "execution_time":
            self.execution_time = self._service_ns / 1e9
            return self.execution_time
        if name == "trace_id" and self._ids:  # written out when somebody asks
            self.trace_id = f"{self._ids >> 64:032x}"
            return self.trace_id
        if name == "span_id" and self._ids:
            self.span_id = f"{self._ids & _SPAN_ID_MASK:016x}"
            return self.span_id
        try:
            return _DEFAULTS[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None


_new_result = object.__new__
_DEFAULTS: Final = {f.name: f.default for f in fields(BatchResult) if f.default is not MISSING}
_DEFAULTS.update(success=True, attempts=1)  # what is left out by `of`, and never by a constructor
